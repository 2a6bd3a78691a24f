package noderun

import (
	"context"
	"fmt"
	"os"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sandbox"
)

// mounted is a job with its volumes mounted, or as many as could be.
type mounted struct {
	*granted
	volumes []openVolume // the image first
	output  cipherDir
	scratch cipherDir // in mode runtime
	fuse    []string  // in mode runtime: what the runtime is told to mount
	results results   // in the mounted output volume
}

// mount opens the job's volumes and mounts them. What it returns is to be closed,
// error or not.
func (g *granted) mount() (*mounted, error) {
	m := &mounted{granted: g, results: results{log: g.log}}
	if err := m.step("volumes", ExitIntegrity, m.openVolumes); err != nil {
		return m, err
	}
	if !m.fromHPCS() {
		return m, m.step("mounts", ExitMount, func(ctx context.Context) error {
			if err := m.mountOutput(ctx); err != nil {
				return err
			}
			return m.mountInputs(ctx)
		})
	}
	if err := m.step("output volume", ExitMount, m.mountOutput); err != nil {
		return m, err
	}
	if err := m.step("HPCS's files", ExitIntegrity, m.decrypt); err != nil {
		return m, err
	}
	return m, m.step("mounts", ExitMount, m.mountInputs)
}

// mountOutput begins the tree that the container gets. The output volume comes first:
// from then on there is a place for details.
func (m *mounted) mountOutput(context.Context) (err error) {
	if err := container.LayOut(m.space, m.manifest.Inputs(), m.scripts); err != nil {
		return fmt.Errorf("prepare the mount points: %w", terse(err))
	}
	origin := manifest.Origin{Run: m.manifest.Run, Manifest: m.digest, Job: m.alloc.job, Node: m.alloc.node}
	if m.output, err = m.dir.makeOutput(m.rcpts, origin, m.released.S); err != nil {
		return err
	}
	if err := m.space.MountGocryptfs(m.outputRel(), m.output.root, m.output.key); err != nil {
		return fmt.Errorf("output volume: %w", err)
	}
	if m.results.root, err = os.OpenRoot(m.space.Outside(m.outputRel())); err != nil {
		return fmt.Errorf("output volume: %w", err)
	}
	return nil
}

// mountInputs completes the tree that the container gets.
func (m *mounted) mountInputs(context.Context) (err error) {
	mountScratch, mountInput := m.mountScratch, m.mountTree
	if m.space.Mode() == sandbox.Runtime {
		mountScratch, mountInput = m.addRuntimeScratch, m.addRuntimeTree
	}
	if err := mountScratch(); err != nil {
		return fmt.Errorf("scratch volume: %w", err)
	}
	for _, v := range m.volumes {
		mountThis := mountInput
		if v.kind == manifest.KindImage {
			mountThis = m.mountTree // no runtime can mount its own image
		}
		if err := mountThis(v); err != nil {
			m.results.note("mount %s: %v", v.what, err)
			return fmt.Errorf("%s: %w", v.what, terse(err))
		}
	}
	if m.fuse, err = m.space.FuseSpecs(m.self.Path(jobdir.Sealbatch)); err != nil {
		return err
	}
	return m.space.Freeze()
}

func (m *mounted) mountTree(v openVolume) error { return m.space.MountTree(v.rel, v.Reader) }

// mountScratch mounts a volume whose key nobody keeps.
func (m *mounted) mountScratch() error {
	c, err := m.dir.makeCipherDir(jobdir.ScratchName)
	if err != nil {
		return err
	}
	defer c.close()
	if err := m.space.MountGocryptfs(container.ScratchRel, c.root, c.key); err != nil {
		return err
	}
	for _, d := range []string{container.ScratchTmp, container.ScratchVarTmp, container.ScratchHome, container.ScratchRuntime} {
		if err := m.space.Mkdir(container.ScratchRel+"/"+d, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// close unmounts what is mounted, and forgets the keys.
func (m *mounted) close() {
	m.unmount()
	for _, v := range m.volumes {
		v.close()
	}
	m.output.close()
	m.scratch.close()
}

// unmount ends the namespaces, what runs in them and the mounts.
func (m *mounted) unmount() {
	m.results.close()
	m.closeSpace()
}
