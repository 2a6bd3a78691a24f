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

var errEncrypted = errors.New("it is encrypted with age")

// Bounds of a member. Names and targets are those of a volume.
const (
	maxPath   = 4095
	maxName   = 255
	maxTarget = 3039
)

// GNU tar's own kinds of members (tar.h, OLDGNU).
const (
	typeLabel     = 'V' // the archive's label
	typeDumpDir   = 'D' // a directory, with the names of what was in it, of an incremental backup
	typeContinued = 'M' // the rest of a file, in a multi-volume archive
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
	plain, free, err := inflated(r)
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

	mtime  string // for all members that follow, as a global header says it
	sparse int64  // bytes of sparse files so far, holes included
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
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return w.setGlobal(h.PAXRecords)
	case typeLabel:
		return nil // the archive's name
	}
	// They may be parts of a header of 1 MiB, and are kept until the end.
	h.Name, h.Linkname = strings.Clone(h.Name), strings.Clone(h.Linkname)
	w.applyGlobal(h)
	kind, err := hostile(h)
	if err == nil {
		err = w.countSparse(h)
	}
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
	if strings.HasPrefix(name, "/") && strings.Trim(name, "/") != "" { // "/" is the root of Python's tarfile, packed without a name
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
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if strings.HasSuffix(h.Name, "/") {
			return 0, refuse(h.Name, "is a file with the name of a directory")
		}
		return volume.File, nil
	case tar.TypeLink:
		return volume.File, nil
	case tar.TypeDir, typeDumpDir:
		return volume.Dir, nil
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxTarget || strings.Contains(h.Linkname, "\x00") {
			return 0, refuse(h.Name, "is a symbolic link with an unusable target")
		}
		return volume.Symlink, nil
	case typeContinued:
		return 0, refuse(h.Name, "is the rest of a file that begins in another volume of a multi-volume archive; "+
			"unpack all of them with tar -M, and seal the directory")
	case tar.TypeChar, tar.TypeBlock:
		return 0, refuse(h.Name, "is a device")
	case tar.TypeFifo:
		return 0, refuse(h.Name, "is a named pipe")
	}
	return 0, refuse(h.Name, "is of a kind that cannot be sealed (tar's %q)", h.Typeflag)
}
