package layers

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// Tree is what the layers of an image make together. Owners are 0.
type Tree struct {
	Root    *squashfs.Node
	Dropped Dropped
	Files   int   // regular files, each once, whatever names it has
	Dirs    int   // with the root
	Bytes   int64 // content of the files

	lim     Limits
	layers  []Layer
	read    []extent
	sources [][]source // of live files, for each layer in its order
}

// extent is how long a layer was.
type extent struct{ stored, plain int64 }

// Dropped counts what the layers have, and the tree has not.
type Dropped struct {
	Devices int // character and block devices
	FIFOs   int
	SetID   int // files and directories that had set-uid or set-gid bits
	Xattrs  int // files and directories with extended attributes that were left out
}

// String returns the counts for people, "" if there are none.
func (d Dropped) String() string {
	var parts []string
	for _, c := range []struct {
		n         int
		one, many string
	}{
		{d.Devices, "1 device node", "%d device nodes"},
		{d.FIFOs, "1 named pipe", "%d named pipes"},
		{d.SetID, "the set-uid or set-gid bits of 1 file", "the set-uid or set-gid bits of %d files and directories"},
		{d.Xattrs, "extended attributes of 1 file", "extended attributes of %d files and directories"},
	} {
		switch {
		case c.n == 1:
			parts = append(parts, c.one)
		case c.n > 1:
			parts = append(parts, fmt.Sprintf(c.many, c.n))
		}
	}
	return strings.Join(parts, ", ")
}

// finish leaves out what does not go into the image, counts the rest, and keeps the sources of live
// files.
func (t *Tree) finish() {
	t.settle(t.Root)
	keepSeen(t.sources)
	for _, sources := range t.sources {
		for _, s := range sources {
			t.Bytes += s.size
		}
	}
	unmark(t.Root)
}

// settle counts a node and what is in it.
func (t *Tree) settle(n *squashfs.Node) {
	if n.Mode&seen != 0 {
		return
	}
	n.Mode |= seen
	if n.Mode&0o6000 != 0 {
		n.Mode &^= 0o6000
		t.Dropped.SetID++
	}
	if n.Mode&lostXattrs != 0 {
		t.Dropped.Xattrs++
	}
	switch n.Mode & squashfs.TypeMask {
	case squashfs.TypeRegular:
		t.Files++
	case squashfs.TypeDirectory:
		t.Dirs++
		for name, child := range n.Entries {
			switch child.Mode & squashfs.TypeMask {
			case typeCharDevice, typeBlockDevice:
				t.Dropped.Devices++
				delete(n.Entries, name)
			case typeFIFO:
				t.Dropped.FIFOs++
				delete(n.Entries, name)
			default:
				t.settle(child)
			}
		}
	}
}

// Lookup returns what a path names, from the root, symbolic links followed inside the image, the last one too. It
// returns an error that is fs.ErrNotExist where there is nothing.
func (t *Tree) Lookup(path string) (*squashfs.Node, error) { return t.lookup(path, true) }

// LookupLink is Lookup, but a symbolic link that the path names itself is not followed.
func (t *Tree) LookupLink(path string) (*squashfs.Node, error) { return t.lookup(path, false) }

func (t *Tree) lookup(path string, follow bool) (*squashfs.Node, error) {
	parts, err := split(nil, path, t.lim)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return t.Root, nil
	}
	last := len(parts) - 1
	if !follow {
		way, err := walk(t.Root, parts[:last], t.lim)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quoted(path), err)
		}
		if dir := way[len(way)-1].node; dir != nil && dir.Entries[parts[last]] != nil {
			return dir.Entries[parts[last]], nil
		}
		return nil, &fs.PathError{Op: "lookup", Path: path, Err: fs.ErrNotExist}
	}
	way, err := walk(t.Root, parts, t.lim)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quoted(path), err)
	}
	end := way[len(way)-1]
	switch {
	case end.node != nil:
		return end.node, nil
	case end.inWay != nil:
		return end.inWay, nil
	}
	return nil, &fs.PathError{Op: "lookup", Path: path, Err: fs.ErrNotExist}
}

// ErrNoDirectory is where a file is in the way of a directory.
var ErrNoDirectory = errors.New("a file is in the way")

// Mkdir makes a directory of a mode, and what is missing above it with 0755, and returns it; where
// there is a directory already, it stays as it is. Links are followed.
func (t *Tree) Mkdir(path string, mode uint32) (*squashfs.Node, error) {
	parts, err := split(nil, path, t.lim)
	if err != nil {
		return nil, err
	}
	way, err := walk(t.Root, parts, t.lim)
	if err == nil {
		err = room(way, "", t.lim)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quoted(path), err)
	}
	for i := 1; i < len(way); i++ {
		s := &way[i]
		if s.inWay != nil {
			return nil, fmt.Errorf("%s: %w", quoted(path), ErrNoDirectory)
		}
		if s.node != nil {
			continue
		}
		s.node = impliedDir()
		s.node.Mtime = t.Root.Mtime
		if i == len(way)-1 {
			s.node.Mode = squashfs.TypeDirectory | mode&0o1777
		}
		way[i-1].node.Entries[s.name] = s.node
		t.Dirs++
	}
	return way[len(way)-1].node, nil
}

// Put gives a node a path, in place of what has it, and makes the directories above it. Links are followed, but not
// the one that path names itself, which is replaced.
func (t *Tree) Put(path string, n *squashfs.Node) error {
	parts, err := split(nil, path, t.lim)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return fmt.Errorf("%s: %w", quoted(path), fs.ErrInvalid)
	}
	dir, err := t.Mkdir(strings.Join(parts[:len(parts)-1], "/"), 0o755)
	if err != nil {
		return err
	}
	dir.Entries[parts[len(parts)-1]] = n
	return nil
}
