package squashfs

import "time"

// Node is one inode. Several entries may name the same *Node: they are hard links.
type Node struct {
	Mode     uint32 // st_mode: the file type (S_IFMT) and 07777
	UID, GID uint32
	Mtime    time.Time         // whole seconds from 1970 to 2106 are kept, see [Writer.ClampedTimes]
	Target   string            // of a symbolic link, at most 4095 bytes
	Entries  map[string]*Node  // of a directory; names are 1 to 255 bytes without '/' and NUL, not "." or ".."
	Xattrs   map[string][]byte // full names, which begin with "user.", "trusted." or "security."
	Content  *Content          // of a regular file; nil is empty. Several nodes may share one
}

// The file types of [Node.Mode] that can be written, of sys/stat.h.
const (
	TypeMask      = 0o170000
	TypeDirectory = 0o040000
	TypeRegular   = 0o100000
	TypeSymlink   = 0o120000
)

// Content is the content of a file that [Writer.Add] took in.
type Content struct {
	size   uint64
	start  uint64   // where the first block that is stored lies in the image
	sparse uint64   // bytes in blocks that are not stored, being zero
	blocks []uint32 // as the inode has them: stored size and flag, 0 for zeros
	// The rest that fills no block lies in a fragment, at an offset in what is uncompressed.
	fragment, offset uint32
}
