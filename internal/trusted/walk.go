package trusted

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// maxLinks is how many symbolic links a path may lead through (Linux: 40).
const maxLinks = 40

// walk is a walk from "/" to what is to be opened.
type walk struct {
	uid   uint32
	owner uint32 // who counts as that user, too (userdirs.Owner); else uid again
	group int64  // a group that counts as that user; -1 is none
	kind  Kind
	trail []*os.File // O_PATH, from "/" to where the walk is
	links int
	finds []find
	// stranger is an owner who was found and should not be one; root, or who runs a container, may
	// want to be that user rather than to take the file.
	stranger   string
	strangerID uint32
}

func newWalk(k Kind) *walk {
	w := &walk{uid: uint32(os.Geteuid()), group: sharedGroup.Load(), kind: k}
	w.owner = w.uid
	if owner, ok := userdirs.Owner(); ok {
		w.owner = owner
	}
	return w
}

func (w *walk) close() { w.back(0) }

// back goes back to the first n directories of the trail.
func (w *walk) back(n int) {
	for _, d := range w.trail[n:] {
		_ = d.Close()
	}
	w.trail = w.trail[:n]
}

func (w *walk) here() *os.File { return w.trail[len(w.trail)-1] }

// file opens the regular file at path.
func (w *walk) file(path string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := w.to(path, func(name string) (*os.File, error) {
		if len(w.finds) > 0 {
			flag &^= os.O_CREATE
		}
		return w.open(name, flag|unix.O_NONBLOCK|unix.O_NOCTTY, perm)
	})
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: fsx.ErrNotRegular}
	}
	if err == nil {
		w.look(f, fi)
		err = w.verdict(path)
	}
	if err == nil {
		err = unix.SetNonblock(int(f.Fd()), false)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// directory walks to the directory at path. The last one is held to what files
// are held to: a sticky bit does not keep others from adding names to it.
func (w *walk) directory(path string) error {
	f, err := w.to(path, func(name string) (*os.File, error) { return w.open(name, unix.O_PATH|unix.O_DIRECTORY, 0) })
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	w.look(f, fi)
	return w.verdict(path)
}

// to walks to the directory of path's last name, through links, and opens that.
func (w *walk) to(path string, last func(name string) (*os.File, error)) (*os.File, error) {
	rest, err := w.begin(path)
	for err == nil && len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if len(rest) == 0 && name != ".." {
			var f *os.File
			if f, err = last(name); err == nil {
				return f, nil
			}
		} else {
			err = w.step(name)
		}
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			var target []string
			if target, err = w.follow(name, err); err == nil {
				rest = append(target, rest...)
			}
		}
	}
	if err == nil { // it ends in "/", ".." or nothing
		return last(".")
	}
	if bad := w.verdict(path); bad != nil {
		err = errors.Join(bad, err)
	}
	return nil, err
}

// begin opens "/" and returns the names to walk from there.
func (w *walk) begin(path string) ([]string, error) {
	if path == "" {
		return nil, &fs.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		path = wd + "/" + path
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: "/", Err: err}
	}
	return names(path), w.enter(os.NewFile(uintptr(fd), "/"))
}

// names splits a path at its slashes.
func names(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// step goes into a directory.
func (w *walk) step(name string) error {
	switch name {
	case ".":
		return nil
	case "..":
		w.back(max(1, len(w.trail)-1))
		return nil
	}
	d, err := w.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return w.enter(d)
}

// enter looks at a directory and goes on from there.
func (w *walk) enter(d *os.File) error {
	fi, err := d.Stat()
	if err != nil {
		return errors.Join(err, d.Close())
	}
	w.pass(d, fi)
	w.trail = append(w.trail, d)
	return nil
}

// open opens a name in the directory where the walk is, ELOOP if it is a
// symbolic link.
func (w *walk) open(name string, flag int, perm os.FileMode) (*os.File, error) {
	full := filepath.Join(w.here().Name(), name)
	for {
		fd, err := unix.Openat(int(w.here().Fd()), name, flag|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(perm.Perm()))
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), full), nil
		case !errors.Is(err, unix.EINTR):
			return nil, &fs.PathError{Op: "open", Path: full, Err: err}
		}
	}
}

// follow returns the names that a symbolic link leads to; an absolute one begins
// at "/" again. What is no link fails as it did before.
func (w *walk) follow(name string, before error) ([]string, error) {
	link, err := w.open(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer link.Close()
	fi, err := link.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Mode()&fs.ModeSymlink == 0 {
		return nil, before
	}
	if w.links++; w.links > maxLinks {
		return nil, &fs.PathError{Op: "open", Path: link.Name(), Err: unix.ELOOP}
	}
	w.own(link.Name(), fi)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", buf)
	if err != nil {
		return nil, &fs.PathError{Op: "readlink", Path: link.Name(), Err: err}
	}
	target := string(buf[:n])
	if filepath.IsAbs(target) {
		w.back(1)
	}
	return names(target), nil
}

// descriptors are paths that name what a process has open.
var descriptors = regexp.MustCompile(`^/(dev/stdin|(dev|proc/self)/fd/[0-9]+)$`)

// handed opens a path that names a descriptor which this process was handed,
// and reports whether path is one.
func handed(path string, k Kind) (f *os.File, ok bool, err error) {
	if !descriptors.MatchString(path) {
		return nil, false, nil
	}
	if f, err = os.Open(path); err != nil {
		return nil, true, err
	}
	fi, err := f.Stat()
	if err == nil && fi.Mode().IsRegular() {
		err = CheckFile(f, k)
	}
	if err != nil {
		return nil, true, errors.Join(err, f.Close())
	}
	return f, true, nil
}
