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

// outputRel returns where the output volume is for the supervisor.
func (m *mounted) outputRel() string {
	if m.space.Mode() == sandbox.Runtime {
		return container.ViewRel
	}
	return container.OutputRel
}

// addRuntimeTree has an input mounted by the runtime.
func (m *mounted) addRuntimeTree(v openVolume) error {
	if err := m.space.Mkdir(v.rel, 0o500); err != nil {
		return err
	}
	return m.space.AddRuntimeTree(container.Root+strings.TrimPrefix(v.rel, container.TreeRel), v.Reader)
}

// addRuntimeScratch has the output and the scratch volume mounted by the runtime. A
// runtime binds nothing out of its own mounts, so what is bound from the scratch
// volume in the other modes is a cipher directory of its own here, under one key.
func (m *mounted) addRuntimeScratch() error {
	c, err := m.dir.makeCipherDir(jobdir.ScratchName)
	if err != nil {
		return err
	}
	m.scratch = c // its key is needed for every container
	err = errors.Join(m.space.Mkdir(container.OutputRel, 0o500), m.space.Mkdir(container.ScratchRel, 0o500),
		m.space.AddRuntimeGocryptfs(container.Output, m.output.root, m.output.key))
	for _, g := range []struct{ name, at string }{
		{"files", container.Scratch}, {container.ScratchHome, container.Home},
		{container.ScratchTmp, "/tmp"}, {container.ScratchVarTmp, "/var/tmp"},
	} {
		part, perr := m.scratch.part(g.name)
		if err = errors.Join(err, perr); err == nil {
			err = m.space.AddRuntimeGocryptfs(g.at, part, c.key)
		}
	}
	part, perr := m.scratch.part(container.ScratchRuntime)
	if err = errors.Join(err, perr); err != nil {
		return err
	}
	return m.space.MountGocryptfs(container.RuntimeRel, part, c.key)
}
