package noderun

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealbatch/sealbatch/fusefs"
)

// In way 3 the runtime mounts what the container sees. The supervisor and the
// runtime itself have mounts of their own: the image, the output volume (viewRel)
// and the runtime's directory (runtimeRel).

// outputRel is where the output volume is for the supervisor.
func (n *node) outputRel() string {
	if n.space.Way() == fusefs.Runtime {
		return viewRel
	}
	return outputRel
}

// guestTree has an input mounted by the runtime.
func (n *node) guestTree(v openVolume) error {
	if err := n.space.Mkdir(v.rel, 0o500); err != nil {
		return err
	}
	return n.space.GuestTree(containerRoot+strings.TrimPrefix(v.rel, treeRel), v.Reader)
}

// guestScratch has the output and the scratch volume mounted by the runtime. A
// runtime binds nothing out of its own mounts, so what is bound from the scratch
// volume in the other ways is a cipher directory of its own here, under one key.
func (n *node) guestScratch() error {
	c, err := n.dir.makeCipherDir(scratchName)
	if err != nil {
		return err
	}
	n.scratch = c // its key is needed for every container
	err = errors.Join(n.space.Mkdir(outputRel, 0o500), n.space.Mkdir(scratchRel, 0o500),
		n.space.GuestGocryptfs(containerOutput, n.output.path, n.output.key))
	for _, g := range []struct{ name, at string }{
		{"files", containerScratch}, {scratchHome, containerHome}, {scratchTmp, "/tmp"}, {scratchVarTmp, "/var/tmp"},
	} {
		err = errors.Join(err, os.Mkdir(filepath.Join(c.path, g.name), 0o700),
			n.space.GuestGocryptfs(g.at, filepath.Join(c.path, g.name), c.key))
	}
	own := filepath.Join(c.path, scratchRuntime)
	return errors.Join(err, os.Mkdir(own, 0o700), n.space.MountGocryptfs(runtimeRel, own, c.key))
}
