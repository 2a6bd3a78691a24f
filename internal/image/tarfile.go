package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// Bounds of an archive: of its members' number and of their names. An archive of
// docker save has at most four members for a layer.
const (
	maxMembers  = 1 << 16
	maxNameSize = 4096
	maxLinks    = 16 // that lead to one member
)

// archive is a tar archive that is read in place: where its members lie is noted
// once, and they are read from there.
//
//	member header | blobs/sha256/f00d... | header | index.json | ...
//	               ^ at, size: a section of the file
type archive struct {
	r       io.ReaderAt
	members map[string]member // by clean names
	closer  io.Closer         // of r; nil if that is not to be closed
}

type member struct {
	at, size int64
	target   string // of a link, a clean name
	why      string // what is wrong with it, if somebody wants it
}

// openArchive notes where the members of the archive in r lie. What is damaged or no
// archive is ErrFormat.
func openArchive(r io.ReaderAt, size int64, closer io.Closer) (*archive, error) {
	a := &archive{r: r, members: map[string]member{}, closer: closer}
	section := io.NewSectionReader(r, 0, size)
	tr := tar.NewReader(section)
	for n := 0; ; n++ {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return a, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			err := fmt.Errorf("%w: the archive is cut off", ErrFormat)
			return nil, fault.New(fault.Usage, err, "copy it again, or have it written anew")
		case errors.Is(err, tar.ErrHeader):
			return nil, fmt.Errorf("%w: the archive is damaged, or no tar archive", ErrFormat)
		case err != nil:
			return nil, err
		case n == maxMembers || len(h.Name) > maxNameSize || len(h.Linkname) > maxNameSize:
			return nil, fmt.Errorf("%w: the archive has more than %d members, or one whose name is longer than %d bytes",
				ErrFormat, maxMembers, maxNameSize)
		}
		at, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		a.add(h, at)
	}
}

// add notes the member with header h, whose content begins at at.
func (a *archive) add(h *tar.Header, at int64) {
	name := path.Clean(h.Name)
	m := member{at: at, size: h.Size}
	switch h.Typeflag {
	case tar.TypeReg:
		if h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
			m.why = "is stored with holes (tar --sparse)"
		}
	case tar.TypeSymlink:
		m.target = path.Join(path.Dir(name), h.Linkname)
		if path.IsAbs(h.Linkname) {
			m.target = h.Linkname
		}
	case tar.TypeLink:
		m.target = path.Clean(h.Linkname)
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return
	default:
		m.why = "is not a regular file"
	}
	if _, twice := a.members[name]; twice {
		m.why = "is there twice"
	}
	a.members[name] = m
}

// Close implements io.Closer.
func (a *archive) Close() error {
	if a.closer == nil {
		return nil
	}
	return a.closer.Close()
}

// open implements files.
func (a *archive) open(name string) (io.ReadCloser, int64, error) {
	at := path.Clean(name)
	for range maxLinks {
		if !fs.ValidPath(at) {
			return nil, 0, fmt.Errorf("%w: its %s leads out of the archive", ErrFormat, text.Printable(name))
		}
		m, ok := a.members[at]
		switch {
		case !ok:
			return nil, 0, &fs.PathError{Op: "open", Path: text.Printable(name), Err: fs.ErrNotExist}
		case m.why != "":
			return nil, 0, fmt.Errorf("%w: its %s %s", ErrFormat, text.Printable(name), m.why)
		case m.target == "":
			return io.NopCloser(io.NewSectionReader(a.r, m.at, m.size)), m.size, nil
		}
		at = m.target
	}
	return nil, 0, fmt.Errorf("%w: its %s is a link to a link, and so on", ErrFormat, text.Printable(name))
}

// looksLike reports whether the archive has members below all of the directories dirs.
func (a *archive) looksLike(dirs ...string) bool {
	for _, d := range dirs {
		found := false
		for name := range a.members {
			if strings.HasPrefix(name, d+"/") {
				found = true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}
