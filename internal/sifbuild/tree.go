package sifbuild

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/layers"
	"github.com/sealbatch/sealbatch/internal/squashfs"
)

const metaDir = ".singularity.d"

// mountPoints are directories that have to be in an image: the runtime mounts on all of them but the last, a job on
// that. An image that is mounted without an overlay cannot get them later.
var mountPoints = []struct {
	path string
	mode uint32
}{
	{"dev", 0o755}, {"home", 0o755}, {"proc", 0o755}, {"root", 0o755}, {"sys", 0o755}, {"tmp", 0o1777}, {"var/tmp", 0o1777},
	{"etc", 0o755}, {"sd-container", 0o755}, // container.Root
}

// boundFiles are files that the runtime covers by its own.
var boundFiles = []string{"etc/hosts", "etc/resolv.conf", "etc/passwd", "etc/group"}

// shortcuts are names in the root by which older runtimes, and people, reach what is in /.singularity.d.
var shortcuts = map[string]string{
	".exec": "actions/exec", ".run": "actions/run", ".shell": "actions/shell", ".test": "actions/test",
	"environment": "env/90-environment.sh", "singularity": "runscript",
}

// addition puts a runtime's files into an image's tree.
type addition struct {
	tree  *layers.Tree
	mtime time.Time
	// texts are the contents of the files that were put there, in the order in which they were.
	texts []text
	// replaced are paths at which the image had something else than what has to be there.
	replaced []string
}

type text struct {
	node    *squashfs.Node
	content string
}

func (a *addition) node(mode uint32) *squashfs.Node {
	n := &squashfs.Node{Mode: mode, UID: a.tree.Root.UID, GID: a.tree.Root.GID, Mtime: a.mtime}
	if mode&squashfs.TypeMask == squashfs.TypeDirectory {
		n.Entries = map[string]*squashfs.Node{}
	}
	return n
}

// add puts everything there. files are those below /.singularity.d.
func (a *addition) add(files map[string]string) error {
	a.tree.Root.Mode |= 0o555 // else nobody gets in
	for _, m := range mountPoints {
		if err := a.directory(m.path, m.mode); err != nil {
			return err
		}
	}
	for _, name := range boundFiles {
		if err := a.file(name); err != nil {
			return err
		}
	}
	meta := a.own(a.tree.Root, metaDir)
	a.own(meta, "libs")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		dir := meta
		if d := path.Dir(name); d != "." {
			dir = a.own(meta, d)
		}
		mode := uint32(0o755)
		if path.Base(name) == "labels.json" || name == "Singularity" {
			mode = 0o644
		}
		n := a.node(squashfs.TypeRegular | mode)
		dir.Entries[path.Base(name)] = n
		a.texts = append(a.texts, text{n, files[name]})
	}
	for name, target := range shortcuts {
		if old := a.tree.Root.Entries[name]; old != nil && old.Mode&squashfs.TypeMask != squashfs.TypeSymlink {
			continue // the image's own
		}
		n := a.node(squashfs.TypeSymlink | 0o777)
		n.Target = metaDir + "/" + target
		a.tree.Root.Entries[name] = n
	}
	return nil
}

// own returns the directory called name in dir. Whatever else has that name gives way.
func (a *addition) own(dir *squashfs.Node, name string) *squashfs.Node {
	n := dir.Entries[name]
	if n == nil || n.Mode&squashfs.TypeMask != squashfs.TypeDirectory {
		n = a.node(squashfs.TypeDirectory | 0o755)
		dir.Entries[name] = n
	}
	n.Mode |= 0o555
	return n
}

// directory makes sure of a directory. What is in its way gives way: a job could not be run over it.
func (a *addition) directory(name string, mode uint32) error {
	if _, err := a.tree.Mkdir(name, mode); err == nil {
		return nil
	}
	at := ""
	for part := range strings.SplitSeq(name, "/") {
		at = path.Join(at, part)
		if n, err := a.tree.Lookup(at); err == nil && n.Mode&squashfs.TypeMask == squashfs.TypeDirectory {
			continue
		}
		own := uint32(0o755)
		if at == name {
			own = mode
		}
		if err := a.tree.Put(at, a.node(squashfs.TypeDirectory|own)); err != nil {
			return err
		}
		a.replaced = append(a.replaced, "/"+at)
	}
	return nil
}

// file makes sure of a file. A link that leads nowhere is replaced, as a directory is.
func (a *addition) file(name string) error {
	if n, err := a.tree.Lookup(name); err == nil && n.Mode&squashfs.TypeMask == squashfs.TypeRegular {
		return nil
	}
	if n, err := a.tree.LookupLink(name); err == nil && n.Mode&squashfs.TypeMask == squashfs.TypeDirectory {
		a.replaced = append(a.replaced, "/"+name)
	}
	return a.tree.Put(name, a.node(squashfs.TypeRegular|0o644))
}

// executable reports whether path is a program in the image.
func executable(t *layers.Tree, path string) bool {
	n, _ := t.Lookup(path)
	return n != nil && n.Mode&squashfs.TypeMask == squashfs.TypeRegular && n.Mode&0o111 != 0
}
