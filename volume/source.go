package volume

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"
)

// Type is the kind of a node.
type Type uint8

// The kinds of nodes. The values are those of the index format.
const (
	Dir     Type = 1
	File    Type = 2
	Symlink Type = 3
)

// recordLink marks a further name of an earlier file in the index.
const recordLink Type = 4

// String returns "directory", "file" or "symbolic link".
func (t Type) String() string {
	switch t {
	case Dir:
		return "directory"
	case File:
		return "file"
	case Symlink:
		return "symbolic link"
	}
	return "unknown type"
}

// Attr describes a node.
type Attr struct {
	Type  Type
	Mode  uint32 // permission, setuid, setgid and sticky bits: 07777
	Mtime time.Time
	Size  int64  // File: bytes; Symlink: length of the target; Dir: 0
	Nlink uint32 // File: number of names; Dir: 2 + subdirectories; Symlink: 1
}

// inode identifies a file with several names.
type inode struct{ dev, ino uint64 }

func statOf(fi fs.FileInfo) *syscall.Stat_t { return fi.Sys().(*syscall.Stat_t) }

// AttrOf returns what a volume keeps of a file, directory or link of this system.
func AttrOf(t Type, st *syscall.Stat_t) Attr {
	a := Attr{Type: t, Mode: st.Mode & 0o7777, Mtime: time.Unix(st.Mtim.Unix()), Nlink: uint32(st.Nlink)}
	if t == File {
		a.Size = st.Size
	}
	return a
}

// Entry is one name of a tree, as a Source yields it.
type Entry struct {
	// Parent is the number of the directory that holds the name. The root
	// comes first and has neither parent nor name.
	Parent uint32
	Name   string
	Attr   Attr
	// Target is a symbolic link's target.
	Target string
	// IsLink says that this is a further name of the earlier file number Link;
	// Attr and Open are then unused.
	IsLink bool
	Link   uint32
	// Open gives a file's content, exactly Attr.Size bytes. It is called at
	// most once, before emit returns; the content may be read later. Closing it
	// reports whether it changed since Walk looked at it (ErrChanged).
	Open func() (io.ReadCloser, error)
	// Late, if set, is a file's content in place of Open. Attr.Size is then unused.
	Late *Late
}

// Source is a tree that can be sealed or extracted: a directory, a sealed
// volume, a cipher directory.
type Source interface {
	// Walk gives each entry to emit, a directory before what it holds and the
	// root first. emit returns the number of the node (0 for the root; for a
	// link the number of the file); Walk ends with its first error.
	Walk(ctx context.Context, emit func(Entry) (uint32, error)) error
}

// Measurer is a Source that can tell beforehand, quickly, how large it is.
type Measurer interface {
	Measure(ctx context.Context) (Usage, error)
}

// Usage is the extent of a tree.
type Usage struct {
	Entries    int   // names, the root not counted
	PlainBytes int64 // sum of the file sizes, hard-linked files once
	// SealedBytes estimates the size of the sealed volume, a little high.
	SealedBytes int64
}

// Add counts one entry of a tree: of a file, size bytes, and whether it is the
// first of its names.
func (u *Usage) Add(t Type, size int64, firstName bool) {
	// Tar headers, PAX records of deep paths, padding, the index: about this
	// much a name, and a directory has its gocryptfs.diriv as well.
	const perName, perDir = 2048, 2048
	u.Entries++
	u.SealedBytes += perName
	if t == Dir {
		u.SealedBytes += perDir
	}
	if t == File && firstName {
		u.PlainBytes += size
		u.SealedBytes += padded(cipherSize(size))
	}
}

// SpecialError returns an ErrSpecial that says what lies at path.
func SpecialError(path string, mode fs.FileMode) error {
	kind := "device"
	switch {
	case mode&fs.ModeSocket != 0:
		kind = "socket"
	case mode&fs.ModeNamedPipe != 0:
		kind = "named pipe"
	}
	return fmt.Errorf("%q is a %s: %w", path, kind, ErrSpecial)
}
