package source

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/volume"
)

// ErrUnreadable: files or directories of the input that may not be read.
var ErrUnreadable = errors.New("not allowed to read")

// ErrTarget: symbolic links whose target is too long for a volume.
var ErrTarget = errors.New("symbolic links with too long a target")

// namedFiles is how many files an error names before it only counts.
const namedFiles = 3

// Scan looks at what Dir(input, exclude...) would seal, before hours are spent on
// that: how much it is, and a fingerprint that differs whenever anything in it did,
// since it covers every path with its size, permissions, times and inode, but no
// content. ErrUnreadable, ErrSpecial and ErrTarget, each with the first paths and their number,
// for what could not be sealed.
func Scan(ctx context.Context, input string, exclude ...Pattern) (volume.Usage, volume.Digest, error) {
	w := &scan{input: input, skip: exclude, hash: sha256.New(), seen: map[inode]bool{}}
	err := walk(ctx, input, w.entry)
	if err == nil {
		err = errors.Join(
			w.special.err(volume.ErrSpecial, "only files, directories and symbolic links can be sealed: "+
				"move the others out of the input, or leave them out with --exclude"),
			w.tooLong.err(ErrTarget, fmt.Sprintf("a target may have %d bytes, as encrypted ones have to fit Linux's limit: "+
				"shorten them, or leave them out with --exclude", maxTarget)),
			w.unreadable.err(ErrUnreadable, "make them readable for yourself (chmod u+rX), or leave them out with --exclude"))
	}
	w.usage.SealedBytes += fixed
	if err == nil {
		err = w.settle(ctx)
	}
	return w.usage, volume.Digest(w.hash.Sum(nil)), err
}

// fixed is what a volume takes besides its entries: keys.age, index, footer.
const fixed = 1 << 20

// scan is one look at a directory.
type scan struct {
	input string // the first part of paths in errors
	skip  []Pattern
	hash  hash.Hash
	usage volume.Usage
	seen  map[inode]bool

	newest unix.Timespec // change time
	fine   bool          // change times have parts of seconds

	special, unreadable, tooLong obstacle
}

// entry looks at one entry; its path is "" for the top itself.
func (w *scan) entry(e visited) error {
	name := filepath.Join(w.input, e.rel)
	if e.rel != "" && Excluded(w.skip, e.rel, e.isDir) {
		return fs.SkipDir
	}
	fi, err := e.info()
	if err != nil && e.rel == "" {
		return inPath(name, err)
	}
	if err != nil {
		return gone(name, err)
	}
	s := stampOf(statOf(fi))
	if e.isDir {
		// Overlay file systems give directories new numbers whenever they like (Linux, overlayfs.rst, "Inode
		// properties"). What is in it is looked at anyway, so that nothing is lost with it.
		s.ino = 0
	}
	w.stamp(e.rel, s)
	switch fi.Mode().Type() {
	case fs.ModeDir, 0:
	case fs.ModeSymlink:
		count(&w.usage, fi, w.seen)
		if fi.Size() > maxTarget {
			w.tooLong.add(name)
		}
		return nil
	default:
		w.special.add(name)
		return nil
	}
	if e.rel != "" || fi.Mode().IsRegular() {
		count(&w.usage, fi, w.seen)
	}
	if e.readable() {
		return nil
	}
	w.unreadable.add(name)
	return fs.SkipDir
}

// Change times are as coarse as the kernel's tick, 10 ms at most, or whole seconds.
const (
	tick       = 20 * time.Millisecond
	coarseTick = 2 * time.Second // as FAT counts
)

// settle waits until a change from now on gets another change time than the newest, so
// that the fingerprint tells of it.
func (w *scan) settle(ctx context.Context) error {
	step := coarseTick
	if w.fine {
		step = tick
	}
	wait := step - time.Since(time.Unix(w.newest.Unix()))
	if wait <= 0 {
		return nil
	}
	select {
	case <-time.After(min(wait, step)): // a file server's clock may be ahead
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stamp puts an entry into the fingerprint.
func (w *scan) stamp(rel string, s stamp) {
	if s.ctime.Nano() > w.newest.Nano() {
		w.newest = unix.Timespec(s.ctime)
	}
	w.fine = w.fine || s.ctime.Nsec != 0
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(rel)))
	b = append(b, rel...)
	for _, v := range []uint64{
		s.ino, uint64(s.size), uint64(s.mode),
		uint64(s.mtime.Sec), uint64(s.mtime.Nsec), uint64(s.ctime.Sec), uint64(s.ctime.Nsec),
	} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	_, _ = w.hash.Write(b)
}

// obstacle is one reason why entries cannot be sealed.
type obstacle struct {
	paths []string // the first of them
	n     int      // how many there are
}

func (o *obstacle) add(path string) {
	o.n++
	if len(o.paths) < namedFiles {
		o.paths = append(o.paths, fmt.Sprintf("%q", path))
	}
}

// err returns the reason with the entries, nil if there are none.
func (o *obstacle) err(reason error, hint string) error {
	if o.n == 0 {
		return nil
	}
	what := strings.Join(o.paths, ", ")
	if more := o.n - len(o.paths); more > 0 {
		what += fmt.Sprintf(" and %d more", more)
	}
	return fault.New(fault.Other, fmt.Errorf("%w: %s", reason, what), hint)
}

// ChangedSince names an entry of input that changed at or after a time, a file
// rather than a directory; "" if none can be told by its change time.
func ChangedSince(ctx context.Context, input string, since time.Time, exclude ...Pattern) string {
	found := ""
	_ = walk(ctx, input, func(e visited) error {
		if e.rel != "" && Excluded(exclude, e.rel, e.isDir) {
			return fs.SkipDir
		}
		fi, err := e.info()
		if err != nil || time.Unix(statOf(fi).Ctim.Unix()).Before(since) {
			return nil
		}
		if found = filepath.Join(input, e.rel); !fi.IsDir() {
			return fs.SkipAll
		}
		return nil
	})
	return found
}
