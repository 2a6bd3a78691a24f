package noderun

import (
	"errors"
	"strings"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/sandbox"
)

// In mode runtime, the runtime mounts what the container sees. The supervisor and the
// runtime itself have mounts of their own: the image, the output volume (ViewRel)
// and the runtime's directory (RuntimeRel).

// outputRel is where the output volume is for the supervisor.
func (n *node) outputRel() string {
	if n.space.Mode() == sandbox.Runtime {
		return container.ViewRel
	}
	return container.OutputRel
}

// addRuntimeTree has an input mounted by the runtime.
func (n *node) addRuntimeTree(v openVolume) error {
	if err := n.space.Mkdir(v.rel, 0o500); err != nil {
		return err
	}
	return n.space.AddRuntimeTree(container.Root+strings.TrimPrefix(v.rel, container.TreeRel), v.Reader)
}

// addRuntimeScratch has the output and the scratch volume mounted by the runtime. A
// runtime binds nothing out of its own mounts, so what is bound from the scratch
// volume in the other modes is a cipher directory of its own here, under one key.
func (n *node) addRuntimeScratch() error {
	c, err := n.dir.makeCipherDir(jobdir.ScratchName)
	if err != nil {
		return err
	}
	n.scratch = c // its key is needed for every container
	err = errors.Join(n.space.Mkdir(container.OutputRel, 0o500), n.space.Mkdir(container.ScratchRel, 0o500),
		n.space.AddRuntimeGocryptfs(container.Output, n.output.root, n.output.key))
	for _, g := range []struct{ name, at string }{
		{"files", container.Scratch}, {container.ScratchHome, container.Home},
		{container.ScratchTmp, "/tmp"}, {container.ScratchVarTmp, "/var/tmp"},
	} {
		part, perr := n.scratch.part(g.name)
		if err = errors.Join(err, perr); err == nil {
			err = n.space.AddRuntimeGocryptfs(g.at, part, c.key)
		}
	}
	part, perr := n.scratch.part(container.ScratchRuntime)
	if err = errors.Join(err, perr); err != nil {
		return err
	}
	return n.space.MountGocryptfs(container.RuntimeRel, part, c.key)
}
