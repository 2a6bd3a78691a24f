package squashfs

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Node is one inode. Several entries may name the same *Node: they are hard links.
type Node struct {
	Mode     uint32 // st_mode: the file type and 07777
	UID, GID uint32
	Mtime    time.Time         // whole seconds from 1970 to 2106 are kept, see [Writer.ClampedTimes]
	Target   string            // of a symbolic link, 1 to 4095 bytes
	Entries  map[string]*Node  // of a directory; names are 1 to 255 bytes without '/' and NUL, not "." or ".."
	Xattrs   map[string][]byte // full names, which begin with "user.", "trusted." or "security."
	Content  *Content          // of a regular file; nil is empty. Several nodes may share one
}

// The file types of [Node.Mode] that can be written: S_IFMT, S_IFDIR, S_IFREG and S_IFLNK of sys/stat.h.
const (
	TypeMask      = 0o170000
	TypeDirectory = 0o040000
	TypeRegular   = 0o100000
	TypeSymlink   = 0o120000
)

const (
	maxName   = 255  // NAME_MAX; the format has 256
	maxTarget = 4095 // PATH_MAX without the NUL; Linux refuses an image with more
)

// ErrNode is wrapped by the errors about nodes that cannot be written.
var ErrNode = errors.New("cannot be written to a SquashFS image")

func (n *Node) isDir() bool { return n.Mode&TypeMask == TypeDirectory }

// check reports what of a node the format, or Linux, does not have.
func (n *Node) check() error {
	switch typ := n.Mode & TypeMask; {
	case typ != TypeDirectory && typ != TypeRegular && typ != TypeSymlink:
		return fmt.Errorf("a file of type %#o %w", typ, ErrNode)
	case n.Mode&^(TypeMask|0o7777) != 0:
		return fmt.Errorf("the mode %#o %w", n.Mode, ErrNode)
	case n.Entries != nil && typ != TypeDirectory, n.Content != nil && typ != TypeRegular,
		n.Target != "" && typ != TypeSymlink:
		return fmt.Errorf("a file of type %#o with what another type has %w", typ, ErrNode)
	case typ == TypeSymlink && (n.Target == "" || len(n.Target) > maxTarget || strings.Contains(n.Target, "\x00")):
		return fmt.Errorf("a symbolic link to %d bytes, or with a NUL, %w", len(n.Target), ErrNode)
	}
	return checkXattrs(n.Xattrs)
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("the name %.300q %w", name, ErrNode)
	}
	return nil
}
