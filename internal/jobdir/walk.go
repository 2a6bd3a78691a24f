package jobdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Errors of a walk, each about the name that it comes with.
var (
	ErrAncestor = errors.New("it can be changed by anyone (no sticky bit)")
	ErrLink     = errors.New("it is a symbolic link that others could have put there")
	ErrLinks    = errors.New("it leads through too many symbolic links")
)

// maxLinks is how many symbolic links a path may lead through (Linux: 40).
const maxLinks = 40

// walk is a walk from "/" to a directory, by the rules of the package comment.
//
// Every place is opened by O_PATH below the one before, and looked at by its
// descriptor: what was looked at is what was opened, and nothing can come in
// between. It needs no more than a path lookup does, the permission to search,
// and mounts what is mounted on demand.
type walk struct {
	uid   uint32  // whose walk it is
	trail []place // from "/" to where the walk is
	links int
}

// place is a directory on the way.
type place struct {
	dir    *os.File // O_PATH
	shared bool     // others can write it, or a directory above it
}

// newWalk begins a walk of uid's at top, which is closed with it.
func newWalk(top *os.File, uid uint32) (*walk, error) {
	w := &walk{uid: uid}
	if err := w.enter(top); err != nil {
		return nil, errors.Join(err, top.Close())
	}
	return w, nil
}

func (w *walk) close() {
	for _, p := range w.trail {
		_ = p.dir.Close()
	}
	w.trail = nil
}

func (w *walk) here() place { return w.trail[len(w.trail)-1] }

// to walks to the directory at an absolute path.
func (w *walk) to(path string) error {
	for rest := strings.Split(path, "/"); len(rest) > 0; {
		target, err := w.step(rest[0])
		if err != nil {
			return err
		}
		rest = rest[1:]
		if target != "" {
			rest = append(strings.Split(target, "/"), rest...)
		}
	}
	return nil
}

// step goes to a name in the directory where the walk is. If that is a symbolic
// link that may be followed, it returns its target, to be walked from here.
func (w *walk) step(name string) (target string, err error) {
	switch name {
	case "", ".":
		return "", nil
	case "..":
		w.back(max(1, len(w.trail)-1))
		return "", nil
	}
	dir, err := w.open(name, unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return w.follow(name)
	}
	if err != nil {
		return "", err
	}
	if err := w.enter(dir); err != nil {
		return "", errors.Join(err, dir.Close())
	}
	return "", nil
}

// back goes back to the first n places of the trail.
func (w *walk) back(n int) {
	for _, p := range w.trail[n:] {
		_ = p.dir.Close()
	}
	w.trail = w.trail[:n]
}

// open opens a name in the directory where the walk is, itself if it is a
// symbolic link.
func (w *walk) open(name string, flags int) (*os.File, error) {
	here := w.here().dir
	full := filepath.Join(here.Name(), name)
	for {
		fd, err := unix.Openat(int(here.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), full), nil
		case !errors.Is(err, unix.EINTR):
			return nil, &fs.PathError{Op: "open", Path: full, Err: err}
		}
	}
}

// enter goes into an opened directory.
func (w *walk) enter(dir *os.File) error {
	fi, err := dir.Stat()
	if err != nil {
		return err
	}
	mode := fi.Mode()
	if mode.Perm()&0o002 != 0 && mode&fs.ModeSticky == 0 {
		return fmt.Errorf("%s: %w", dir.Name(), ErrAncestor)
	}
	shared := mode.Perm()&0o022 != 0 || !w.trusted(fi)
	if len(w.trail) > 0 {
		shared = shared || w.here().shared
	}
	w.trail = append(w.trail, place{dir, shared})
	return nil
}

// trusted reports whether something belongs to root or to whose walk it is.
func (w *walk) trusted(fi fs.FileInfo) bool {
	owner := ownerOf(fi)
	return owner == 0 || owner == w.uid
}

func ownerOf(fi fs.FileInfo) uint32 {
	st, _ := fi.Sys().(*syscall.Stat_t) // always, on Linux
	return st.Uid
}

// follow returns the target of a symbolic link in the directory where the walk
// is. An absolute one begins at "/" again.
func (w *walk) follow(name string) (target string, err error) {
	link, err := w.open(name, 0)
	if err != nil {
		return "", err
	}
	defer link.Close()
	fi, err := link.Stat()
	if err != nil {
		return "", err
	}
	if fi.Mode()&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "open", Path: link.Name(), Err: unix.ENOTDIR}
	}
	if w.here().shared || !w.trusted(fi) {
		return "", fmt.Errorf("%s: %w", link.Name(), ErrLink)
	}
	if w.links++; w.links > maxLinks {
		return "", fmt.Errorf("%s: %w", link.Name(), ErrLinks)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", buf)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: link.Name(), Err: err}
	}
	target = string(buf[:n])
	if filepath.IsAbs(target) {
		w.back(1)
	}
	return target, nil
}
