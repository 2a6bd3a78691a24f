package layers

import (
	"archive/tar"
	"errors"
	"io"
	"strings"

	"github.com/sealbatch/sealbatch/internal/squashfs"
	"github.com/sealbatch/sealbatch/internal/text"
)

// Types of files that are left out in the end (sys/stat.h). Until then they are there, since they may replace others,
// and have hard links.
const (
	typeCharDevice  = 0o020000
	typeBlockDevice = 0o060000
	typeFIFO        = 0o010000
)

// node returns what a member describes. A hard link is the node that it links to.
func (m *merger) node(h *tar.Header, content io.Reader) (*squashfs.Node, error) {
	n := &squashfs.Node{Mode: uint32(h.Mode) & 0o7777, Mtime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeLink:
		return m.linked(h)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.Mode |= squashfs.TypeRegular
		if err := m.content(n, h, content); err != nil {
			return nil, err
		}
	case tar.TypeDir, typeDumpDir:
		n.Mode |= squashfs.TypeDirectory
		n.Entries = map[string]*squashfs.Node{}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxTarget || strings.IndexByte(h.Linkname, 0) >= 0 {
			return nil, refuse(ErrFormat, h.Name, "is a symbolic link with an impossible target of %d bytes", len(h.Linkname))
		}
		n.Mode = squashfs.TypeSymlink | 0o777
		n.Target = strings.Clone(h.Linkname)
		if err := m.keep(h.Name, len(n.Target)); err != nil {
			return nil, err
		}
	case tar.TypeChar:
		n.Mode |= typeCharDevice
	case tar.TypeBlock:
		n.Mode |= typeBlockDevice
	case tar.TypeFifo:
		n.Mode |= typeFIFO
	case typeContinued:
		return nil, refuse(ErrFormat, h.Name, "is the rest of a file that begins in another archive")
	default:
		return nil, refuse(ErrFormat, h.Name, "is of a kind that no file has (tar's %q)", h.Typeflag)
	}
	return n, m.xattrs(n, h)
}

// linked returns what a hard link is another name of: a file of this layer or a lower one, as it is now. What
// a hard link says of attributes is passed over: they are the file's.
func (m *merger) linked(h *tar.Header) (*squashfs.Node, error) {
	parts, err := split(nil, h.Linkname, m.lim)
	if err != nil || len(parts) == 0 {
		return nil, refuse(ErrFormat, h.Name, "is a hard link to %s, which leads nowhere", quoted(h.Linkname))
	}
	way, err := walk(m.root, parts[:len(parts)-1], m.lim)
	if err != nil {
		return nil, refuse(ErrFormat, h.Name, "is a hard link to %s: %v", quoted(h.Linkname), err)
	}
	var n *squashfs.Node
	if dir := way[len(way)-1].node; dir != nil {
		n = dir.Entries[parts[len(parts)-1]]
	}
	switch {
	case n == nil:
		return nil, refuse(ErrFormat, h.Name, "is a hard link to %s, which is not there", quoted(h.Linkname))
	case isDir(n):
		return nil, refuse(ErrFormat, h.Name, "is a hard link to %s, which is a directory", quoted(h.Linkname))
	}
	return n, nil
}

// content remembers where the content of a file is. Sparse files count with their holes, and are read
// once, since their maps may lie.
func (m *merger) content(n *squashfs.Node, h *tar.Header, content io.Reader) error {
	if isSparse(h) {
		if err := m.meter.uncompressed(h.Size); err != nil {
			var p *problem
			if errors.As(err, &p) {
				p.path, p.text = h.Name, "is a sparse file of "+text.Size(h.Size)+", and "+p.text
			}
			return err
		}
		if got, err := io.Copy(io.Discard, content); err != nil || got != h.Size {
			return refuse(ErrFormat, h.Name, "is a sparse file whose map does not fit its content")
		}
	}
	if h.Size > 0 {
		m.sources[m.number] = append(m.sources[m.number], source{node: n, size: h.Size, member: m.member})
	}
	return nil
}

// isSparse reports whether a file is one of the sparse ones of GNU tar, in its own format or in pax's.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// paxXattr is the beginning of records that hold an extended attribute (star's format, which GNU tar, Docker and
// containerd write).
const paxXattr = "SCHILY.xattr."

// xattrs gives a node the extended attributes of a member. All are kept here; finish leaves out what has no
// meaning in an image.
func (m *merger) xattrs(n *squashfs.Node, h *tar.Header) error {
	total := 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if !keepsXattr(name) || n.Mode&squashfs.TypeMask == squashfs.TypeSymlink {
			n.Mode |= lostXattrs
			continue
		}
		if total += len(name) + len(value); len(name) > maxName || total > maxXattr {
			return refuse(ErrTooLarge, h.Name, "has more than %d bytes of extended attributes, or one with a name beyond %d",
				maxXattr, maxName)
		}
		if n.Xattrs == nil {
			n.Xattrs = map[string][]byte{}
		}
		n.Xattrs[strings.Clone(name)] = []byte(value)
	}
	if total == 0 {
		return nil
	}
	return m.keep(h.Name, total)
}

// overlayXattrs are attributes of users by which overlay file systems are steered from below (overlayfs.rst of the
// kernel; fuse-overlayfs). A runtime mounts such over the image, and the image must not steer it.
var overlayXattrs = []string{"user.overlay.", "user.fuseoverlayfs.", "user.containers."}

// keepsXattr reports whether an extended attribute goes into the image: those of users do. Others are privileges, which
// no image gets here (security.capability), labels and signatures of another machine (security.selinux, security.ima),
// nothing that a user could read (trusted), or nothing that SquashFS can hold (system.posix_acl_access).
func keepsXattr(name string) bool {
	for _, prefix := range overlayXattrs {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.")
}
