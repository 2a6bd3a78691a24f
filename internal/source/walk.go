package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// visited is an entry that walk has come to. Its path may be longer than the system takes:
// it is looked at by its name in the directory that is open.
type visited struct {
	rel   string // path from the top; "" for the top itself
	isDir bool
	at    *os.Root
	fd    int // of that directory
	name  string
}

// info returns the entry's attributes.
func (v visited) info() (fs.FileInfo, error) {
	if v.rel == "" {
		return os.Stat(v.name)
	}
	return v.at.Lstat(v.name)
}

// readable reports whether the entry, a file or a directory, may be read.
func (v visited) readable() bool {
	mode := uint32(unix.R_OK)
	if v.isDir {
		mode |= unix.X_OK
	}
	return unix.Faccessat(v.fd, v.name, mode, unix.AT_EACCESS) == nil
}

// walk visits what is at input, which may be a symbolic link, and all below it: a directory
// before what it holds, names in order. visit returns fs.SkipDir to pass over what a directory
// holds, and fs.SkipAll to end. A directory that is not there any more has nothing in it.
func walk(ctx context.Context, input string, visit func(visited) error) error {
	fi, err := os.Stat(input)
	if err != nil {
		return err
	}
	err = visit(visited{isDir: fi.IsDir(), fd: unix.AT_FDCWD, name: input})
	if err == nil && fi.IsDir() {
		var root *os.Root
		if root, err = os.OpenRoot(input); err != nil {
			return err
		}
		defer root.Close()
		err = walkIn(ctx, root, "", visit)
	}
	if errors.Is(err, fs.SkipDir) || errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

// walkIn visits what is in a directory; rel is its path.
func walkIn(ctx context.Context, dir *os.Root, rel string, visit func(visited) error) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return inPath(rel, err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		v := visited{rel: strings.TrimPrefix(rel+"/"+e.Name(), "/"), isDir: e.IsDir(), at: dir, fd: int(f.Fd()), name: e.Name()}
		err := visit(v)
		if err == nil && v.isDir {
			err = walkSub(ctx, v, visit)
		}
		if err != nil && !errors.Is(err, fs.SkipDir) {
			return err
		}
	}
	return nil
}

func walkSub(ctx context.Context, v visited, visit func(visited) error) error {
	sub, err := v.at.OpenRoot(v.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return inPath(v.rel, err)
	}
	defer sub.Close()
	return walkIn(ctx, sub, v.rel, visit)
}
