package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/output"
)

// ExtractOptions says how to extract. The zero value will do.
type ExtractOptions struct {
	// Damaged, if set, is told of files whose content fails its integrity check,
	// from several goroutines; they are kept up to the failure, and extraction
	// goes on. Without it the first such failure ends it.
	Damaged func(path string, err error)
	// LeaveOut removes files that Damaged is told of, under all of their names,
	// instead of keeping what comes before the failure.
	LeaveOut bool
	// Missing, if set, is told of what the file system cannot hold, such as a
	// name, a link or a size that it does not know, and extraction goes on without
	// it. Without Missing the first such thing ends it.
	Missing func(path string, err error)
	// Altered, if set, is told of what came out otherwise than it was sealed: a
	// time that the file system cannot hold, a mode, or a copy for a hard link. Both
	// are called from several goroutines.
	Altered func(path string, err error)
	// Link, if set, is told of each symbolic link that was made, and its target.
	Link func(path, target string)
	// Progress, if set, is called often, from several goroutines, with the
	// number of bytes extracted and their total (0 if it is not known).
	Progress func(bytesDone, bytesTotal int64)
	// Workers is the number of files written at once; 0 means one a processor.
	Workers int
}

// Extract writes the volume's tree to dir, which must be new or empty. It is put
// together under a name that nobody can guess, beside a new directory or in an
// empty one, and gets its name when it is complete; if it fails, it is removed.
// Nothing is written outside it, whatever names and links the volume holds. Owners
// and ACLs are not part of a volume; setuid and setgid bits are, and do not come out.
func (r *Reader) Extract(ctx context.Context, dir string, opt ExtractOptions) error {
	var total int64
	for i := range r.t.nodes {
		if r.t.nodes[i].typ == File {
			total += r.t.nodes[i].size
		}
	}
	return extract(ctx, r, dir, total, opt)
}

func extract(ctx context.Context, src Source, dir string, total int64, opt ExtractOptions) (err error) {
	out, err := output.Dir{Path: dir}.Create()
	if errors.Is(err, fs.ErrExist) || errors.Is(err, output.ErrKind) {
		return fmt.Errorf("%w: %w", ErrPath, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Discard()) }()
	if err := extractInto(ctx, src, out.Path(), total, opt); err != nil {
		return err
	}
	return out.Commit()
}

// RemoveTree removes what was extracted, read-only directories included. That
// dir does not exist is no error.
func RemoveTree(dir string) error {
	_ = os.Chmod(dir, 0o700)
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	makeWritable(root)
	return os.RemoveAll(dir)
}

// makeWritable makes the directories of a tree so that they can be emptied. What it cannot open
// is found by who removes it.
func makeWritable(root *os.Root) {
	f, err := root.Open(".")
	if err != nil {
		return
	}
	defer f.Close()
	entries, _ := f.ReadDir(-1)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		_ = root.Chmod(e.Name(), 0o700)
		if sub, err := root.OpenRoot(e.Name()); err == nil {
			makeWritable(sub)
			_ = sub.Close()
		}
	}
}

// extraction is one Extract under way.
type extraction struct {
	root   *os.Root
	opt    ExtractOptions
	group  *errgroup.Group
	ctx    context.Context
	nodes  uint32
	dirs   map[uint32]string // paths of directories
	linked map[uint32]string // paths of files with further names
	attrs  []dirAttr         // to be set last
	done   atomic.Int64
	total  int64

	further map[string][]string // by a file's first path: its further ones
	dropped map[uint32]bool     // directories and files that the file system did not take
	copies  []copiedLink        // to be made last
	mu      sync.Mutex
	left    []string // first paths of files to be left out
}

type dirAttr struct {
	path string
	attr Attr
}

func extractInto(ctx context.Context, src Source, dir string, total int64, opt ExtractOptions) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	group, ctx := errgroup.WithContext(ctx)
	workers := opt.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	group.SetLimit(workers)
	x := &extraction{
		root: root, opt: opt, group: group, ctx: ctx, total: total,
		dirs: map[uint32]string{}, linked: map[uint32]string{}, further: map[string][]string{},
		dropped: map[uint32]bool{},
	}
	err = src.Walk(ctx, x.entry)
	if gerr := group.Wait(); gerr != nil {
		return gerr // why Walk ended, if both failed
	}
	if err != nil {
		return err
	}
	return x.finish()
}

func (x *extraction) entry(e Entry) (uint32, error) {
	if x.nodes == 0 {
		x.nodes++
		x.dirs[0] = "."
		x.attrs = append(x.attrs, dirAttr{".", e.Attr})
		return 0, nil
	}
	parent, ok := x.dirs[e.Parent]
	if !ok {
		return 0, fmt.Errorf("%w: %q comes before its directory", ErrPath, e.Name)
	}
	if err := checkName(e.Name); err != nil {
		return 0, err
	}
	path := e.Name
	if parent != "." {
		path = parent + "/" + e.Name
	}
	if e.IsLink {
		return e.Link, x.link(e, path)
	}
	node := x.nodes
	x.nodes++
	if e.Attr.Type == Dir {
		x.dirs[node] = path
	}
	if x.dropped[e.Parent] {
		x.dropped[node] = true
		x.opt.Missing(path, errNoDir)
		return node, nil
	}
	return node, x.make(node, e, path)
}

// make makes a directory, a symbolic link or a file.
func (x *extraction) make(node uint32, e Entry, path string) error {
	var err error
	switch e.Attr.Type {
	case Dir:
		if err = x.root.Mkdir(path, 0o700); err == nil {
			x.attrs = append(x.attrs, dirAttr{path, e.Attr})
		}
	case Symlink:
		err = x.symlink(e, path)
	case File:
		if e.Attr.Nlink > 1 {
			x.linked[node] = path
		}
		err = x.file(e, path)
	default:
		return fmt.Errorf("%w: %q", ErrSpecial, path)
	}
	if err != nil {
		x.dropped[node] = true
	}
	return x.missing(path, err)
}

func (x *extraction) symlink(e Entry, path string) error {
	if err := x.root.Symlink(e.Target, path); err != nil {
		return err
	}
	if x.opt.Link != nil {
		x.opt.Link(path, e.Target)
	}
	err := x.setTime(path, e.Attr.Mtime)
	if err == nil && x.opt.Altered != nil {
		var fi fs.FileInfo
		if fi, err = x.root.Lstat(path); err == nil {
			err = x.lookAtTime(path, fi, e.Attr)
		}
	}
	return x.altered(path, err)
}

// file creates a file at once, so that links to it can follow, and leaves large
// contents to a worker.
func (x *extraction) file(e Entry, path string) error {
	f, err := x.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	r, err := e.Open()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	const small = 64 << 10
	if e.Attr.Size <= small {
		return x.content(e, r, f, path)
	}
	x.group.Go(func() error { return x.content(e, r, f, path) })
	return nil
}

func (x *extraction) content(e Entry, r io.ReadCloser, f *os.File, path string) error {
	err := x.copy(e, r, f)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	var d *damage
	if errors.As(err, &d) {
		x.opt.Damaged(path, d.error)
		x.leaveOut(path)
		err = nil
	}
	if err == nil {
		err = x.setAttr(f, path, e.Attr)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if errors.Is(err, unix.EFBIG) {
		err = x.missing(path, errors.Join(err, x.root.Remove(path)))
	}
	if err != nil {
		return fmt.Errorf("extract %q: %w", path, err)
	}
	return nil
}

var copyBufs = sync.Pool{New: func() any { return new([1 << 20]byte) }}

// copy writes a file's content. Stretches of zeros become holes.
func (x *extraction) copy(e Entry, r io.Reader, f *os.File) error {
	buf := copyBufs.Get().(*[1 << 20]byte)
	defer copyBufs.Put(buf)
	for off := int64(0); off < e.Attr.Size; {
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		b := buf[:min(int64(len(buf)), e.Attr.Size-off)]
		n, rerr := io.ReadFull(r, b)
		if b = b[:n]; !allZero(b) {
			if _, err := f.WriteAt(b, off); err != nil {
				return err
			}
		}
		off += int64(n)
		if rerr != nil {
			return x.cut(f, off, rerr)
		}
		if x.opt.Progress != nil {
			x.opt.Progress(x.done.Add(int64(len(b))), x.total)
		}
	}
	return f.Truncate(e.Attr.Size)
}

// cut ends a file where its content failed.
func (x *extraction) cut(f *os.File, off int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it ends early", ErrSize)
	}
	if x.opt.Damaged == nil || !errors.Is(err, ErrIntegrity) {
		return err
	}
	if terr := f.Truncate(off); terr != nil {
		return terr
	}
	return &damage{err}
}

// leaveOut notes a damaged file. It goes at the end, when all its names are known.
func (x *extraction) leaveOut(path string) {
	if x.opt.LeaveOut {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.left = append(x.left, path)
	}
}

// damage marks an integrity failure that does not end the extraction.
type damage struct{ error }

// finish sets the directories' attributes, the innermost first: creating a file
// changes its directory's time, and a read-only one could not be filled.
func (x *extraction) finish() error {
	for _, path := range x.left {
		for _, name := range append(x.further[path], path) {
			if err := x.root.Remove(name); err != nil {
				return err
			}
		}
	}
	if err := x.copyLinks(); err != nil {
		return err
	}
	for i := len(x.attrs) - 1; i >= 0; i-- {
		f, err := x.root.Open(x.attrs[i].path)
		if err != nil {
			return err
		}
		err = x.setAttr(f, x.attrs[i].path, x.attrs[i].attr)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("extract %q: %w", x.attrs[i].path, err)
		}
	}
	return nil
}
