package source

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"

	"github.com/sealbatch/sealbatch/volume"
)

// begin emits the root, whose attributes the first member may tell.
func (w *tarWalk) begin(path []string, attr volume.Attr) error {
	w.begun = true
	w.strip = w.top != "" && len(path) > 0 && path[0] == w.top && (len(path) > 1 || attr.Type == volume.Dir)
	own := attr.Type == volume.Dir && (len(path) == 0 || w.strip && len(path) == 1)
	if !own {
		attr = volume.Attr{Mode: 0o755, Mtime: attr.Mtime}
	}
	attr.Type = volume.Dir
	number, err := w.emit(volume.Entry{Attr: attr})
	w.named = own
	w.root = node{number: number, kind: volume.Dir, implied: !own}
	return err
}

// stripped takes off the directory that everything lies in.
func (w *tarWalk) stripped(path []string, name string) ([]string, error) {
	if !w.strip || len(path) == 0 {
		return path, nil
	}
	if path[0] != w.top {
		return nil, refuse(name, "lies beside the directory %q, with which the archive begins and after which it is called; "+
			"put both into one directory, or give the archive another name", w.top)
	}
	return path[1:], nil
}

// rootMember is the member that describes the root.
func (w *tarWalk) rootMember(h *tar.Header, kind volume.Type) error {
	switch {
	case kind != volume.Dir:
		return refuse(h.Name, "has no name")
	case w.named:
		w.named = false
		return nil
	}
	return again(h.Name, w.root, kind)
}

// parents finds the directory that a member lies in, and makes what the archive
// has not named so far. left tells that it is excluded.
func (w *tarWalk) parents(path []string, h *tar.Header) (dir uint32, left bool, err error) {
	dir = w.root.number
	for i, name := range path {
		at := place{dir, name}
		n, ok := w.nodes[at]
		switch {
		case ok && n.kind != volume.Dir:
			return 0, false, refuse(h.Name, "lies in %q, which is a %s", strings.Join(path[:i+1], "/"), n.kind)
		case !ok && Excluded(w.skip, strings.Join(path[:i+1], "/"), true):
			return 0, true, nil
		case !ok:
			attr := volume.Attr{Type: volume.Dir, Mode: 0o755, Mtime: h.ModTime}
			n = node{kind: volume.Dir, implied: true}
			if n.number, err = w.emit(volume.Entry{Parent: dir, Name: name, Attr: attr}); err != nil {
				return 0, false, err
			}
			w.nodes[at] = n
		case n.left:
			return 0, true, nil
		}
		dir = n.number
	}
	return dir, false, nil
}

// give emits a member.
func (w *tarWalk) give(at place, attr volume.Attr, h *tar.Header) error {
	e := volume.Entry{Parent: at.dir, Name: at.name, Attr: attr}
	switch {
	case h.Typeflag == tar.TypeLink:
		first, err := w.linked(h)
		if err != nil {
			return err
		}
		if first.kind == volume.Symlink { // they have one name each in a volume
			e.Attr, e.Target = first.link.Attr, first.link.Target
			break
		}
		e.IsLink, e.Link = true, first.number
	case attr.Type == volume.Symlink:
		e.Target, e.Attr.Size, e.Attr.Nlink = h.Linkname, int64(len(h.Linkname)), 1
	case attr.Type == volume.File:
		e.Attr.Size, e.Attr.Nlink = h.Size, 2 // further names may come
		e.Open = func() (io.ReadCloser, error) { return content{w.tr}, nil }
	}
	number, err := w.emit(e)
	if err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	n := node{number: number, kind: e.Attr.Type}
	if e.Attr.Type == volume.Symlink {
		n.link = &e
	}
	w.nodes[at] = n
	return nil
}

// linked finds what a hard link is another name of.
func (w *tarWalk) linked(h *tar.Header) (node, error) {
	none := refuse(h.Name, "is a hard link to %q, which is no file before it", h.Linkname)
	path, err := split(h.Linkname)
	if err != nil {
		return node{}, none
	}
	if w.strip {
		if len(path) == 0 || path[0] != w.top {
			return node{}, none
		}
		path = path[1:]
	}
	n := w.root
	for i, name := range path {
		var ok bool
		n, ok = w.nodes[place{n.number, name}]
		if n.left || !ok && Excluded(w.skip, strings.Join(path[:i+1], "/"), i < len(path)-1) {
			return node{}, refuse(h.Name, "is a hard link to %q, which is excluded, with its content", h.Linkname)
		}
		if !ok || i < len(path)-1 && n.kind != volume.Dir {
			return node{}, none
		}
	}
	if n.kind == volume.Dir {
		return node{}, none
	}
	return n, nil
}

// content is a member's content.
type content struct{ r io.Reader }

func (c content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		err = broken(err)
	}
	return n, err
}

func (content) Close() error { return nil }
