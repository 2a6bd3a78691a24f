package main

import (
	"path/filepath"
	"strings"

	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// sshFiles are the keys and what else SSH keeps in ~/.ssh: no output takes their place, whether the command reads
// them or not.
func sshFiles() []string {
	dir := userdirs.SSH()
	if dir == "" {
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*")) // the only error is of a home whose name is a bad pattern
	return files
}

// reads are the files besides the data that a command with a configuration reads: both files of a key, whichever is
// named, what says whom to trust, and the configuration itself.
func (c *client) reads() []string {
	s, r := c.conf.Supercomputer, c.conf.Results
	files := append(sshFiles(), c.conf.Path, c.conf.Service.CACert, c.conf.Trust.AllowedSigners, s.SSHConfig)
	files = append(files, s.KnownHosts...)
	files = append(files, r.Recipients...)
	for _, keys := range [][]string{{c.conf.Identity.SSHKey}, s.SSHKeys, r.Identities} {
		for _, key := range keys {
			if key == "" { // in the agent only
				continue
			}
			private := strings.TrimSuffix(key, ".pub")
			files = append(files, private, private+".pub")
		}
	}
	return files
}
