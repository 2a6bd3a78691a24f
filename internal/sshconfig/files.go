package sshconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

const (
	systemFile = "/etc/ssh/ssh_config"
	systemDir  = "/etc/ssh"
	maxFile    = 4 << 20 // bytes of one file
	maxDepth   = 16      // of files that include each other, as OpenSSH has it
)

// roots returns the files that a query begins with.
func (q Query) roots(me person) []string {
	switch q.File {
	case "none":
		return nil
	case "":
		return []string{filepath.Join(me.ssh, "config"), systemFile}
	}
	return []string{q.File}
}

// readFile returns a file's lines. The user's own must be nobody else's to write.
func readFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := trusted.CheckFile(f, trusted.Public); err != nil {
		return nil, err
	}
	b, err := fsx.ReadAll(f, maxFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return strings.Split(string(b), "\n"), nil
}

// included returns the files that one pattern of an Include line names. Relative ones lie beside the user's
// or the system's configuration.
func included(pattern string, me person, system bool) ([]string, error) {
	path, err := tokens(me, Query{}, nil).expand(strings.ReplaceAll(pattern, "%", "%%"), true)
	if err == nil {
		path, err = expandTilde(path, me)
	}
	if err != nil {
		return nil, err
	}
	path = me.place(path)
	if !filepath.IsAbs(path) {
		dir := me.ssh
		if system {
			dir = systemDir
		}
		path = filepath.Join(dir, path)
	}
	found, err := filepath.Glob(path)
	if err != nil {
		return nil, fmt.Errorf("the pattern of Include %s: %w", pattern, err)
	}
	return found, nil
}

// checkFiles holds the files that ssh will read to what Read holds them to.
func checkFiles(q Query) error {
	me := whoAmI()
	for _, root := range q.roots(me) {
		if root == systemFile {
			continue // root's own affair
		}
		err := checkFile(root, me, 0)
		if err != nil && !(q.File == "" && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

func checkFile(path string, me person, depth int) error {
	lines, err := readFile(path)
	if err != nil || depth >= maxDepth {
		return err
	}
	for _, line := range lines {
		keyword, rest, err := splitLine(line)
		if err != nil || keyword != "include" {
			continue // ssh says what is wrong with it
		}
		patterns, err := splitWords(rest)
		if err != nil {
			continue
		}
		for _, p := range patterns {
			found, err := included(p, me, false)
			if err != nil {
				continue
			}
			for _, f := range found {
				if err := checkFile(f, me, depth+1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
