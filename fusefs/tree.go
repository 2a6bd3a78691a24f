package fusefs

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
	"github.com/sealbatch/sealbatch/volume"
)

// Tree is what a read-only mount serves; *volume.Reader is one. Its nodes are
// numbered from 0, the root, to Len()-1, and never change.
type Tree interface {
	Attr(node uint32) volume.Attr
	Readlink(node uint32) string
	Dirents(node uint32) []volume.Dirent
	Lookup(dir uint32, name string) (uint32, bool)
	ReadAt(node uint32, p []byte, off int64) (int, error)
	Len() int
}

// forever is how long the kernel may keep names and attributes: they never
// change.
const forever = 10 * 365 * 24 * time.Hour

// maxName is the length of a file name that volumes and Linux allow.
const maxName = 255

// treeFS answers FUSE requests from a Tree. Inodes are node numbers plus one
// (fuse.FUSE_ROOT_ID is 1), so there is nothing to remember about what the
// kernel holds, and nothing to forget. Files and directories need no handles:
// answering OPEN and OPENDIR with ENOSYS once tells the kernel not to ask again,
// to keep cached pages and directory listings, and is all that is needed.
type treeFS struct {
	fuse.RawFileSystem // whatever is not below: ENOSYS, and EROFS by the kernel
	tree               Tree
	owner              fuse.Owner
	bytes              uint64 // of all files
	prefetcher         *prefetcher
	readError          func(node uint32, err error)

	oldKernel         bool
	noOpen, noOpenDir bool // the kernel needs no answer to OPEN, to OPENDIR

	failed  sync.Map // nodes whose read errors were reported
	listing atomic.Pointer[listing]
}

// listing is the directory read last. A long one is read in many requests.
type listing struct {
	node    uint32
	entries []volume.Dirent
}

func newTreeFS(t Tree, owner fuse.Owner, readError func(uint32, error)) *treeFS {
	fs := &treeFS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		tree:          t, owner: owner, prefetcher: newPrefetcher(t), readError: readError,
	}
	for n := range uint32(t.Len()) {
		fs.bytes += uint64(t.Attr(n).Size)
	}
	return fs
}

func (fs *treeFS) String() string { return "sealbatch" }

// node returns the node that the kernel calls ino.
func (fs *treeFS) node(ino uint64) (uint32, bool) {
	if ino == 0 || ino > uint64(fs.tree.Len()) {
		return 0, false
	}
	return uint32(ino - 1), true
}

func (fs *treeFS) fill(node uint32, out *fuse.Attr) {
	a := fs.tree.Attr(node)
	*out = fuse.Attr{
		Ino: uint64(node) + 1, Size: uint64(a.Size), Blocks: (uint64(a.Size) + 511) / 512,
		Mode: a.Mode | format(a.Type), Nlink: a.Nlink, Owner: fs.owner, Blksize: fusemount.MaxRead,
	}
	out.SetTimes(&a.Mtime, &a.Mtime, &a.Mtime)
}

// format returns a type as in st_mode.
func format(t volume.Type) uint32 {
	switch t {
	case volume.Dir:
		return syscall.S_IFDIR
	case volume.Symlink:
		return syscall.S_IFLNK
	default:
		return syscall.S_IFREG
	}
}

func (fs *treeFS) entry(node uint32, out *fuse.EntryOut) {
	out.NodeId, out.Generation = uint64(node)+1, 1
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	fs.fill(node, &out.Attr)
}

func (fs *treeFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, ok := fs.node(h.NodeId)
	if !ok {
		return fuse.Status(syscall.ESTALE)
	}
	if len(name) > maxName {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	node, ok := fs.tree.Lookup(dir, name)
	if !ok {
		out.SetEntryTimeout(forever) // without a node: "there is no such name"
		return fuse.OK
	}
	fs.entry(node, out)
	return fuse.OK
}

func (fs *treeFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	node, ok := fs.node(in.NodeId)
	if !ok {
		return fuse.Status(syscall.ESTALE)
	}
	out.SetTimeout(forever)
	fs.fill(node, &out.Attr)
	return fuse.OK
}

func (fs *treeFS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	node, ok := fs.node(h.NodeId)
	if !ok || fs.tree.Attr(node).Type != volume.Symlink {
		return nil, fuse.EINVAL
	}
	return []byte(fs.tree.Readlink(node)), fuse.OK
}

// noOpenDirSupport is FUSE_NO_OPENDIR_SUPPORT of linux/fuse.h (Linux 5.1).
// Kernels without it take ENOSYS for an error.
const noOpenDirSupport = 1 << 24

// agree takes note of what the kernel can do, before anything is asked.
func (fs *treeFS) agree(flags uint32) {
	fs.noOpen = flags&fuse.CAP_NO_OPEN_SUPPORT != 0 && !fs.oldKernel
	fs.noOpenDir = flags&noOpenDirSupport != 0 && !fs.oldKernel
}

func (fs *treeFS) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if fs.noOpen {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (fs *treeFS) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if fs.noOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

func (fs *treeFS) Flush(_ <-chan struct{}, _ *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// read answers READ, without go-fuse (worker.read).
func (fs *treeFS) read(ino uint64, buf []byte, off int64) (int, unix.Errno) {
	node, ok := fs.node(ino)
	if !ok {
		return 0, unix.ESTALE
	}
	n, err := fs.tree.ReadAt(node, buf, off)
	if err != nil && !errors.Is(err, io.EOF) {
		// Not even the part before the error: the kernel would pad it with zeros.
		if _, again := fs.failed.LoadOrStore(node, true); !again {
			fs.readError(node, err)
		}
		return 0, unix.EIO
	}
	return n, 0
}

// observe takes note of a READ, and returns the batch to run before it is answered;
// nil if there is none.
func (fs *treeFS) observe(ino uint64, off int64, n int) *batch {
	node, ok := fs.node(ino)
	if !ok {
		return nil
	}
	return fs.prefetcher.observe(node, off, n)
}

// entries returns a directory's names, the same slice while one directory is
// being read.
func (fs *treeFS) entries(node uint32) []volume.Dirent {
	if l := fs.listing.Load(); l != nil && l.node == node {
		return l.entries
	}
	l := &listing{node, fs.tree.Dirents(node)}
	fs.listing.Store(l)
	return l.entries
}

// readDir calls add for the entries from the offset on, until it returns false.
// Offset 1 is after ".", 2 after "..", and so on.
func (fs *treeFS) readDir(in *fuse.ReadIn, add func(e fuse.DirEntry, node uint32, dots bool) bool) fuse.Status {
	dir, ok := fs.node(in.NodeId)
	if !ok {
		return fuse.Status(syscall.ESTALE)
	}
	off := in.Offset
	for _, dots := range []string{".", ".."}[min(off, 2):] {
		off++
		// The kernel knows what ".." is and takes no inode number from here.
		e := fuse.DirEntry{Name: dots, Mode: syscall.S_IFDIR, Ino: uint64(dir) + 1, Off: off}
		if !add(e, dir, true) {
			return fuse.OK
		}
	}
	entries := fs.entries(dir)
	for i := off - 2; i < uint64(len(entries)); i++ {
		d := entries[i]
		e := fuse.DirEntry{Name: d.Name, Mode: format(d.Type), Ino: uint64(d.Node) + 1, Off: i + 3}
		if !add(e, d.Node, false) {
			break
		}
	}
	return fuse.OK
}

func (fs *treeFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.readDir(in, func(e fuse.DirEntry, _ uint32, _ bool) bool { return out.AddDirEntry(e) })
}

func (fs *treeFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.readDir(in, func(e fuse.DirEntry, node uint32, dots bool) bool {
		entry := out.AddDirLookupEntry(e)
		if entry != nil && !dots { // the kernel wants no attributes of "." and ".."
			fs.entry(node, entry)
		}
		return entry != nil
	})
}

func (fs *treeFS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const block = 4096
	*out = fuse.StatfsOut{
		Bsize: block, Frsize: block, NameLen: maxName,
		Blocks: (fs.bytes + block - 1) / block, Files: uint64(fs.tree.Len()),
	}
	return fuse.OK
}
