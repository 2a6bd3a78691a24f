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

	"github.com/sealbatch/sealbatch/volume"
)

// Survey is a first look at an input, before hours are spent on sealing it.
type Survey struct {
	volume.Usage
	// Fingerprint changes whenever anything in the input does: it covers every
	// path with its size, permissions, times and inode, but no content.
	Fingerprint volume.Digest
}

// ErrUnreadable: files or directories of the input that may not be read.
var ErrUnreadable = errors.New("not allowed to read")

// namedFiles is how many files an error names before it only counts.
const namedFiles = 3

// Scan surveys what Dir(input, exclude...) would seal, and finds out what could not
// be: ErrUnreadable and ErrSpecial, each with the first paths and their number.
func Scan(ctx context.Context, input string, exclude ...Pattern) (Survey, error) {
	w := &scan{input: input, skip: exclude, hash: sha256.New(), seen: map[inode]bool{}}
	root, err := filepath.EvalSymlinks(input)
	if err != nil {
		return Survey{}, err
	}
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		return w.entry(rel, path, e, err)
	})
	if err == nil {
		err = w.trouble()
	}
	const fixed = 1 << 20 // keys.age, index, footer
	w.usage.SealedBytes += fixed
	return Survey{Usage: w.usage, Fingerprint: volume.Digest(w.hash.Sum(nil))}, err
}

type scan struct {
	input string
	skip  []Pattern
	hash  hash.Hash
	usage volume.Usage
	seen  map[inode]bool
	bad   [2]struct {
		kind  error
		paths []string
		n     int
	}
}

func (w *scan) entry(rel, path string, e fs.DirEntry, err error) error {
	name := filepath.Join(w.input, rel)
	if rel != "" && e != nil && Excluded(w.skip, rel, e.IsDir()) {
		return left(e)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil // its directory entry was noted when it was met
	}
	var fi fs.FileInfo
	if err == nil {
		fi, err = e.Info()
	}
	if err != nil && rel == "" {
		return inPath(name, err)
	}
	if err != nil {
		return gone(name, err)
	}
	w.stamp(rel, stampOf(statOf(fi)))
	mode := uint32(unix.R_OK)
	switch fi.Mode().Type() {
	case fs.ModeDir:
		mode |= unix.X_OK
	case 0:
	case fs.ModeSymlink:
		count(&w.usage, e, w.seen)
		return nil
	default:
		w.note(0, volume.ErrSpecial, name)
		return nil
	}
	if rel != "" || fi.Mode().IsRegular() {
		count(&w.usage, e, w.seen)
	}
	if unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS) != nil {
		w.note(1, ErrUnreadable, name)
		if fi.IsDir() {
			return fs.SkipDir
		}
	}
	return nil
}

func (w *scan) stamp(rel string, s stamp) {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(rel)))
	b = append(b, rel...)
	for _, v := range []uint64{s.ino, uint64(s.size), uint64(s.mode), uint64(s.mtime.Sec), uint64(s.mtime.Nsec), uint64(s.ctime.Sec), uint64(s.ctime.Nsec)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	_, _ = w.hash.Write(b)
}

func (w *scan) note(i int, kind error, path string) {
	b := &w.bad[i]
	b.kind, b.n = kind, b.n+1
	if len(b.paths) < namedFiles {
		b.paths = append(b.paths, fmt.Sprintf("%q", path))
	}
}

func (w *scan) trouble() error {
	var all error
	for _, b := range w.bad {
		if b.n == 0 {
			continue
		}
		what := strings.Join(b.paths, ", ")
		if more := b.n - len(b.paths); more > 0 {
			what += fmt.Sprintf(" and %d more", more)
		}
		all = errors.Join(all, fmt.Errorf("%w: %s", b.kind, what))
	}
	return all
}

// ChangedSince names an entry of input that changed at or after a time, a file
// rather than a directory; "" if none can be told by its change time.
func ChangedSince(ctx context.Context, input string, since time.Time, exclude ...Pattern) string {
	found := ""
	root, err := filepath.EvalSymlinks(input)
	if err != nil {
		return ""
	}
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return fs.SkipAll
		}
		if path != root && Excluded(exclude, strings.TrimPrefix(path, root+"/"), e.IsDir()) {
			return left(e)
		}
		fi, err := e.Info()
		if err != nil || time.Unix(statOf(fi).Ctim.Unix()).Before(since) {
			return nil
		}
		if found = path; !fi.IsDir() {
			return fs.SkipAll
		}
		return nil
	})
	return found
}
