package noderun

import (
	"context"
	"fmt"
	"os"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/volume"
)

// openVolume is a sealed volume that has been opened and is the pinned one.
type openVolume struct {
	*volume.Reader
	kind manifest.Kind
	file *os.File
	rel  string // where it is mounted
	what string // how logs call it: "image", "input 1"
}

func (v openVolume) close() { _ = v.file.Close() }

// openVolumes opens all of the job's volumes before any is mounted.
func (n *node) openVolumes(context.Context) error {
	for i, ref := range n.m.Volumes {
		what, rel := "image", container.ImageRel
		if ref.Kind != manifest.KindImage {
			what, rel = fmt.Sprintf("input %d", i), container.DatasetRel+"/"+ref.Name
		}
		key, err := n.grant.key(ref)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		r, f, err := openPinned(ref, key)
		if err != nil {
			return fmt.Errorf("%s: %w", what, terse(err))
		}
		n.volumes = append(n.volumes, openVolume{r, ref.Kind, f, rel, what})
	}
	n.grant.wipe()
	return checkImage(n.volumes[0].Reader)
}

// openPinned opens a volume and compares it with what the manifest pins and
// with what the key service released the key for.
func openPinned(ref manifest.VolumeRef, key GrantedKey) (r *volume.Reader, f *os.File, err error) {
	if f, err = fsx.OpenRegular(ref.Path); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if st.Size() != ref.Size {
		return nil, nil, fmt.Errorf("%w: %d bytes, the manifest pins %d", volume.ErrSize, st.Size(), ref.Size)
	}
	if r, err = volume.Open(f, st.Size(), key.Key); err != nil {
		return nil, nil, err
	}
	digest := manifest.Digest(r.Digest())
	if r.ID().String() != ref.VolumeID || digest != ref.Digest || digest != key.Digest {
		return nil, nil, fmt.Errorf("%w: it is another version or volume than the one that was pinned", volume.ErrIntegrity)
	}
	return r, f, nil
}

func checkImage(r *volume.Reader) error {
	if node, ok := r.Lookup(0, container.ImageFile); !ok || r.Attr(node).Type != volume.File {
		return fmt.Errorf("%w: the image volume holds no %s", manifest.ErrInvalid, container.ImageFile)
	}
	return nil
}

// mount makes the tree that the container gets. The output volume comes first:
// from then on there is a place for details.
func (n *node) mount(context.Context) (err error) {
	if err := container.LayOut(n.space, n.m.Inputs(), n.scripts); err != nil {
		return fmt.Errorf("prepare the mount points: %w", terse(err))
	}
	origin := manifest.Origin{Run: n.m.Run, Manifest: n.digest, Job: n.alloc.job, Node: n.alloc.node}
	if n.output, err = n.dir.makeOutput(n.rcpts, origin, n.grant.Signer); err != nil {
		return err
	}
	if err := n.space.MountGocryptfs(n.outputRel(), n.output.root, n.output.key); err != nil {
		return fmt.Errorf("output volume: %w", err)
	}
	if n.results.root, err = os.OpenRoot(n.space.Outside(n.outputRel())); err != nil {
		return fmt.Errorf("output volume: %w", err)
	}
	mountScratch, mountInput := n.mountScratch, n.mountTree
	if n.space.Mode() == sandbox.Runtime {
		mountScratch, mountInput = n.addRuntimeScratch, n.addRuntimeTree
	}
	if err := mountScratch(); err != nil {
		return fmt.Errorf("scratch volume: %w", err)
	}
	for _, v := range n.volumes {
		mount := mountInput
		if v.kind == manifest.KindImage {
			mount = n.mountTree // no runtime can mount its own image
		}
		if err := mount(v); err != nil {
			n.results.note("mount %s: %v", v.what, err)
			return fmt.Errorf("%s: %w", v.what, terse(err))
		}
	}
	if n.fuse, err = n.space.FuseSpecs(n.self.Path(jobdir.Sealbatch)); err != nil {
		return err
	}
	return n.space.Freeze()
}

func (n *node) mountTree(v openVolume) error { return n.space.MountTree(v.rel, v.Reader) }

// mountScratch mounts a volume whose key nobody keeps.
func (n *node) mountScratch() error {
	c, err := n.dir.makeCipherDir(jobdir.ScratchName)
	if err != nil {
		return err
	}
	defer c.close()
	if err := n.space.MountGocryptfs(container.ScratchRel, c.root, c.key); err != nil {
		return err
	}
	for _, d := range []string{container.ScratchTmp, container.ScratchVarTmp, container.ScratchHome, container.ScratchRuntime} {
		if err := n.space.Mkdir(container.ScratchRel+"/"+d, 0o700); err != nil {
			return err
		}
	}
	return nil
}
