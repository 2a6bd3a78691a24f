package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

// Dir is the tree under a directory, or one file as the only entry of a
// root of its own. The path itself may be a symbolic link; links below it are
// kept as links. What a pattern matches is left out, and not looked at. The
// Source also implements Measurer.
func Dir(input string, exclude ...Pattern) volume.Source { return dir{input, exclude} }

type dir struct {
	input   string
	exclude []Pattern
}

// inode identifies a file with several names.
type inode struct{ dev, ino uint64 }

// stamp is what is compared before and after reading.
type stamp struct {
	inode
	size         int64
	mode         uint32
	mtime, ctime syscall.Timespec
}

func stampOf(st *syscall.Stat_t) stamp {
	return stamp{inode{st.Dev, st.Ino}, st.Size, st.Mode, st.Mtim, st.Ctim}
}

func statOf(fi fs.FileInfo) *syscall.Stat_t { return fi.Sys().(*syscall.Stat_t) }

// dirWalk is one walk of a directory.
type dirWalk struct {
	ctx   context.Context
	emit  func(volume.Entry) (uint32, error)
	nodes map[inode]uint32 // files with several names
	top   string           // the input, with which all paths begin
	skip  []Pattern
}

// excluded reports whether the entry at path is left out.
func (w *dirWalk) excluded(path string, e fs.DirEntry) bool {
	return Excluded(w.skip, strings.TrimPrefix(path, w.top+"/"), e.IsDir())
}

// Walk implements Source. Paths in errors begin with the input's.
func (d dir) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	w := &dirWalk{ctx: ctx, emit: emit, nodes: map[inode]uint32{}, top: d.input, skip: d.exclude}
	fi, err := os.Stat(d.input)
	if err != nil {
		return err
	}
	switch {
	case fi.Mode().IsRegular():
		return w.single(d.input, fi)
	case fi.IsDir():
		root, err := os.OpenRoot(d.input)
		if err != nil {
			return err
		}
		defer root.Close()
		return w.dir(root, "", 0, d.input)
	}
	return volume.SpecialError(d.input, fi.Mode())
}

// single emits a root that holds one file.
func (w *dirWalk) single(path string, fi fs.FileInfo) error {
	st := statOf(fi)
	rootAttr := volume.Attr{Type: volume.Dir, Mode: 0o755, Mtime: time.Unix(st.Mtim.Unix()), Nlink: 2}
	if _, err := w.emit(volume.Entry{Attr: rootAttr}); err != nil {
		return err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return w.file(f, filepath.Base(abs), 0, path)
}

// dir emits a directory and all below it. The directory is looked at again at
// the end, so that a name added or removed meanwhile is found.
func (w *dirWalk) dir(root *os.Root, name string, parent uint32, path string) error {
	f, err := root.Open(".")
	if err != nil {
		return inPath(path, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return inPath(path, err)
	}
	before := stampOf(statOf(fi))
	self, err := w.emit(volume.Entry{Parent: parent, Name: name, Attr: volume.AttrOf(volume.Dir, statOf(fi))})
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if err != nil {
		return inPath(path, err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
		if w.excluded(path+"/"+e.Name(), e) {
			continue
		}
		if err := w.entry(root, e, self, path+"/"+e.Name()); err != nil {
			return err
		}
	}
	if fi, err = f.Stat(); err != nil {
		return inPath(path, err)
	}
	if stampOf(statOf(fi)) != before {
		return fmt.Errorf("%q %w", path, volume.ErrChanged)
	}
	return nil
}

func (w *dirWalk) entry(root *os.Root, e fs.DirEntry, parent uint32, path string) error {
	switch e.Type() {
	case fs.ModeDir:
		sub, err := root.OpenRoot(e.Name())
		if err != nil {
			return gone(path, err)
		}
		defer sub.Close()
		return w.dir(sub, e.Name(), parent, path)
	case fs.ModeSymlink:
		return w.symlink(root, e.Name(), parent, path)
	case 0:
		// Not blocking, in case a pipe has taken the file's place.
		f, err := root.OpenFile(e.Name(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return gone(path, err)
		}
		return w.file(f, e.Name(), parent, path)
	}
	return volume.SpecialError(path, e.Type())
}

func (w *dirWalk) symlink(root *os.Root, name string, parent uint32, path string) error {
	fi, err := root.Lstat(name)
	if err != nil {
		return gone(path, err)
	}
	target, err := root.Readlink(name)
	if err != nil {
		return gone(path, err)
	}
	attr := volume.AttrOf(volume.Symlink, statOf(fi))
	attr.Nlink, attr.Size = 1, int64(len(target))
	_, err = w.emit(volume.Entry{Parent: parent, Name: name, Attr: attr, Target: target})
	return err
}

// file emits a file, or a further name of one, and closes f.
func (w *dirWalk) file(f *os.File, name string, parent uint32, path string) error {
	c := &dirFile{File: f, path: path}
	defer func() {
		if !c.taken {
			_ = f.Close()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return inPath(path, err)
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%q %w: it was a file", path, volume.ErrChanged)
	}
	c.before = stampOf(statOf(fi))
	e := volume.Entry{
		Parent: parent, Name: name, Attr: volume.AttrOf(volume.File, statOf(fi)),
		Open: func() (io.ReadCloser, error) { c.taken = true; return c, nil },
	}
	if e.Attr.Nlink > 1 {
		e.Link, e.IsLink = w.nodes[c.before.inode]
	}
	node, err := w.emit(e)
	if e.Attr.Nlink > 1 {
		w.nodes[c.before.inode] = node
	}
	return err
}

// dirFile is a file's content; closing it compares its stamp.
type dirFile struct {
	*os.File
	path   string
	before stamp
	taken  bool // by whoever called Open, who closes it
}

func (c *dirFile) Close() error {
	defer c.File.Close()
	fi, err := c.File.Stat()
	if err != nil {
		return inPath(c.path, err)
	}
	if stampOf(statOf(fi)) != c.before {
		return fmt.Errorf("%q %w", c.path, volume.ErrChanged)
	}
	return nil
}

// Measure implements Measurer. What cannot be read is not counted: Walk will
// say so.
func (d dir) Measure(ctx context.Context) (volume.Usage, error) {
	var u volume.Usage
	seen := map[inode]bool{}
	err := walk(ctx, d.input, func(e visited) error {
		if e.rel != "" && Excluded(d.exclude, e.rel, e.isDir) {
			return fs.SkipDir
		}
		if fi, err := e.info(); err == nil && (e.rel != "" || fi.Mode().IsRegular()) {
			count(&u, fi, seen)
		}
		if e.isDir && !e.readable() {
			return fs.SkipDir
		}
		return nil
	})
	u.SealedBytes += fixed
	return u, err
}

// count adds an entry to u.
func count(u *volume.Usage, fi fs.FileInfo, seen map[inode]bool) {
	switch fi.Mode().Type() {
	case fs.ModeDir:
		u.Add(volume.Dir, 0, true)
	case fs.ModeSymlink:
		u.Add(volume.Symlink, 0, true)
	case 0:
		st := statOf(fi)
		id := inode{st.Dev, st.Ino}
		u.Add(volume.File, st.Size, !seen[id])
		if st.Nlink > 1 {
			seen[id] = true
		}
	}
}

// inPath puts the whole path into an error about a name in a directory.
func inPath(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &fs.PathError{Op: "seal", Path: path, Err: err}
}

// vanishedError: an entry that its directory listed is not there any more.
type vanishedError struct{ path string }

func (e vanishedError) Error() string {
	return fmt.Sprintf("%q vanished while it was being sealed", e.path)
}

// Is makes it an ErrChanged.
func (vanishedError) Is(target error) bool { return target == volume.ErrChanged }

// gone is inPath for a name that a directory listed.
func gone(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return vanishedError{path}
	}
	return inPath(path, err)
}
