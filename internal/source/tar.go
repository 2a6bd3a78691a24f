package source

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sealbatch/sealbatch/volume"
)

// ErrArchive: an archive that is damaged, cut, or holds what cannot be sealed.
var ErrArchive = errors.New("unusable archive")

// Bounds of a member. Names and targets are those of a volume.
const (
	maxPath   = 4095
	maxName   = 255
	maxTarget = 3039
)

// tarEnd is what ends a tar file: two blocks of zeros.
const tarEnd = 1024

// Tar hands what the tar archive in r holds, compressed or not, to emit, as the
// Walk of a volume.Source does. It reads r once, to its end, and unpacks nothing; what it
// holds in memory is the names. Content is to be read before emit returns.
//
// If the archive begins with a directory called top, or with something in it,
// everything has to lie in it, and it is the root; "" for none. A directory that
// the archive does not name gets mode 0755 and the time of the first member in
// it. ErrArchive, with the member's name, for everything that could be lost, or
// mean something else than it seems: see hostile.
func Tar(ctx context.Context, r io.Reader, top string, exclude []Pattern, emit func(volume.Entry) (uint32, error)) error {
	plain, free, err := inflate(r)
	if err != nil {
		return err
	}
	defer free()
	in := &counted{r: plain}
	w := &tarWalk{ctx: ctx, emit: emit, top: top, skip: exclude, tr: tar.NewReader(in), nodes: map[place]node{}}
	for {
		before := in.n
		h, err := w.tr.Next()
		if errors.Is(err, io.EOF) {
			if in.n-before < tarEnd {
				return fmt.Errorf("%w: it is cut off: its end is missing", ErrArchive)
			}
			break
		}
		if err != nil {
			return broken(err)
		}
		if err := w.member(h); err != nil {
			return err
		}
	}
	if !w.begun {
		return fmt.Errorf("%w: it holds nothing", ErrArchive)
	}
	return onlyZeros(in)
}

// broken returns the ErrArchive of an archive that cannot be read. What comes from the disk stays
// what it is; a bare io.ErrUnexpectedEOF would look like a file that became shorter.
func broken(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: it is cut off", ErrArchive)
	case errors.Is(err, ErrArchive), errors.Is(err, context.Canceled):
		return err
	}
	return fmt.Errorf("%w: %w", ErrArchive, err)
}

// onlyZeros reads what follows the end of a tar file. Another archive appended
// to it would be lost silently, as tar loses it; and compressed files have their
// checksum at the end.
func onlyZeros(r io.Reader) error {
	buf := make([]byte, 64<<10)
	zeros := make([]byte, len(buf))
	for {
		n, err := r.Read(buf)
		if !bytes.Equal(buf[:n], zeros[:n]) {
			return fmt.Errorf("%w: something follows its end: another archive appended to it, or garbage", ErrArchive)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken(err)
		}
	}
}

// counted counts the bytes read.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// place is a name in a directory.
type place struct {
	dir  uint32
	name string
}

// node is what is known of a name.
type node struct {
	number  uint32
	kind    volume.Type
	implied bool          // a directory that was only mentioned so far
	left    bool          // excluded
	link    *volume.Entry // a symbolic link, which may get further names
}

// tarWalk is one pass over an archive.
type tarWalk struct {
	ctx   context.Context
	emit  func(volume.Entry) (uint32, error)
	top   string
	skip  []Pattern
	tr    *tar.Reader
	nodes map[place]node
	begun bool // the root was given
	strip bool // everything lies in top
	named bool // the member at hand told the root's attributes
	root  node
}

// refuse is an error about a member.
func refuse(name, why string, args ...any) error {
	return fmt.Errorf("%w: %q %s", ErrArchive, name, fmt.Sprintf(why, args...))
}

// member emits one member, and before it the directories that it lies in.
func (w *tarWalk) member(h *tar.Header) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // comments, as of git archive
	}
	kind, err := hostile(h)
	if err != nil {
		return err
	}
	path, err := split(h.Name)
	if err != nil {
		return err
	}
	attr := volume.Attr{Type: kind, Mode: uint32(h.Mode) & 0o7777, Mtime: h.ModTime}
	if !w.begun {
		if err := w.begin(path, attr); err != nil {
			return err
		}
	}
	if path, err = w.stripped(path, h.Name); err != nil {
		return err
	}
	if len(path) == 0 {
		return w.rootMember(h, kind)
	}
	dir, left, err := w.parents(path[:len(path)-1], h)
	if err != nil {
		return err
	}
	at := place{dir, path[len(path)-1]}
	if old, ok := w.nodes[at]; ok && !left {
		return again(h.Name, old, kind)
	}
	if left || Excluded(w.skip, strings.Join(path, "/"), kind == volume.Dir) {
		if !left {
			w.nodes[at] = node{kind: kind, left: true}
		}
		return nil
	}
	return w.give(at, attr, h)
}

// again returns what is wrong with a second member of one name.
func again(name string, old node, kind volume.Type) error {
	if old.implied && kind == volume.Dir {
		return refuse(name, "comes after what lies in it; pack directories before their contents, as tar does by itself")
	}
	return refuse(name, "is there twice")
}

// split takes a member's name apart. "." and empty parts are passed over.
func split(name string) ([]string, error) {
	if strings.HasPrefix(name, "/") {
		return nil, refuse(name, "has an absolute path")
	}
	if len(name) > maxPath {
		return nil, refuse(name[:80]+"...", "has a path of %d bytes; %d are possible", len(name), maxPath)
	}
	var path []string
	for _, part := range strings.Split(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return nil, refuse(name, "leads out of the archive")
		case len(part) > maxName:
			return nil, refuse(name, "has a name of %d bytes; %d are possible", len(part), maxName)
		case strings.Contains(part, "\x00"):
			return nil, refuse(name, "has a zero byte in its name")
		}
		path = append(path, part)
	}
	return path, nil
}

// hostile refuses members that are no file, directory or link, or not quite.
func hostile(h *tar.Header) (volume.Type, error) {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return 0, refuse(h.Name, "is a sparse file; pack without --sparse")
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont:
		if strings.HasSuffix(h.Name, "/") {
			return 0, refuse(h.Name, "is a file with the name of a directory")
		}
		return volume.File, nil
	case tar.TypeLink:
		return volume.File, nil
	case tar.TypeDir:
		return volume.Dir, nil
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxTarget || strings.Contains(h.Linkname, "\x00") {
			return 0, refuse(h.Name, "is a symbolic link with an unusable target")
		}
		return volume.Symlink, nil
	case tar.TypeGNUSparse:
		return 0, refuse(h.Name, "is a sparse file; pack without --sparse")
	case tar.TypeChar, tar.TypeBlock:
		return 0, refuse(h.Name, "is a device")
	case tar.TypeFifo:
		return 0, refuse(h.Name, "is a named pipe")
	}
	return 0, refuse(h.Name, "is of a kind that cannot be sealed (tar's %q)", h.Typeflag)
}

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
