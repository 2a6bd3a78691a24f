package volume

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/text"
)

// What Missing and Altered are told, besides the system's own words.
var (
	errNoDir  = errors.New("its directory is missing")
	errNoFile = errors.New("the file that it is another name of is missing")
	errCopied = errors.New("the file system has no hard links: it is a copy")
	errBits   = errors.New("its setuid and setgid bits are dropped")
)

// cannotHold reports whether an error says that the file system does not know such a
// name, link, size or attribute, and not that it fails. EEXIST: in a directory that is
// new, for a file system that takes two names for one.
func cannotHold(err error) bool {
	for _, e := range []syscall.Errno{
		unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.EILSEQ, unix.ENAMETOOLONG, unix.EEXIST, unix.EFBIG, unix.EMLINK,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// missing passes on that an entry could not be made, if that need not end the extraction.
func (x *extraction) missing(path string, err error) error {
	if err == nil || x.opt.Missing == nil || !cannotHold(err) {
		return err
	}
	x.opt.Missing(path, plainError(err))
	return nil
}

// altered passes on that an entry did not become what it should.
func (x *extraction) altered(path string, err error) error {
	if err == nil || x.opt.Altered == nil || !(cannotHold(err) || errors.Is(err, errAttr)) {
		return err
	}
	x.opt.Altered(path, err)
	return nil
}

// plainError returns the system's word for what went wrong, without path.
func plainError(err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, unix.EEXIST):
		return errors.New("the file system takes its name for that of another entry")
	case errors.As(err, &errno):
		return fmt.Errorf("the file system cannot hold it: %w", errno)
	}
	return err
}

// link makes a further name of a file.
func (x *extraction) link(e Entry, path string) error {
	first, ok := x.linked[e.Link]
	if !ok || x.dropped[e.Link] || x.dropped[e.Parent] {
		return x.missing(path, fmt.Errorf("%w: %w", errNoFile, unix.EPERM))
	}
	err := x.root.Link(first, path)
	if err == nil {
		x.further[first] = append(x.further[first], path)
	}
	if err != nil && x.opt.Altered != nil && cannotHold(err) && !errors.Is(err, unix.EEXIST) {
		x.copies = append(x.copies, copiedLink{first, path})
		return nil
	}
	return x.missing(path, err)
}

// copiedLink is a further name of a file where there are no hard links.
type copiedLink struct{ first, path string }

// copyLinks copies what could not be linked, once all contents are there.
func (x *extraction) copyLinks() error {
	for _, c := range x.copies {
		err := x.copyLink(c)
		if errors.Is(err, fs.ErrNotExist) { // its content could not be extracted
			continue
		}
		if err != nil {
			return fmt.Errorf("extract %q: %w", c.path, err)
		}
		x.opt.Altered(c.path, errCopied)
	}
	return nil
}

func (x *extraction) copyLink(c copiedLink) error {
	from, err := x.root.Open(c.first)
	if err != nil {
		return err
	}
	defer from.Close()
	fi, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := x.root.OpenFile(c.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = x.setAttr(to, c.path, AttrOf(File, statOf(fi)))
	}
	return errors.Join(err, to.Close())
}

// errAttr: an attribute came out otherwise.
var errAttr = errors.New("not kept")

// setAttr sets mode and time, and looks at what became of them. Setuid and setgid
// bits are dropped: nobody gains rights by what comes out.
func (x *extraction) setAttr(f *os.File, path string, a Attr) error {
	if err := unix.Fchmod(int(f.Fd()), a.Mode&0o1777); err != nil {
		if err := x.altered(path, fmt.Errorf("its mode: %w", err)); err != nil {
			return err
		}
	}
	if a.Mode&^0o1777 != 0 && x.opt.Altered != nil {
		x.opt.Altered(path, errBits)
	}
	if err := x.setTime(path, a.Mtime); err != nil {
		return x.altered(path, err)
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return x.lookAtTime(path, fi, a)
}

// lookAtTime tells of a time that the file system has made another one, which is no error to it.
func (x *extraction) lookAtTime(path string, fi fs.FileInfo, a Attr) error {
	got := time.Unix(statOf(fi).Mtim.Unix())
	if x.opt.Altered == nil || !farFrom(got, a.Mtime) {
		return nil
	}
	return x.altered(path, fmt.Errorf("its time %s is %w: the file system made it %s", text.Time(a.Mtime, time.DateTime),
		errAttr, text.Time(got, time.DateTime)))
}

// setTime sets the time of a file, a directory or a symbolic link. By path, since older
// kernels cannot set times by descriptor; and not by os.Root.Chtimes, which goes through
// nanoseconds in an int64 and so turns the year 2263 into 1678.
func (x *extraction) setTime(path string, mtime time.Time) error {
	dir, err := x.root.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: mtime.Unix(), Nsec: int64(mtime.Nanosecond())}}
	if err := unix.UtimesNanoAt(int(dir.Fd()), filepath.Base(path), ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("its time %s: %w", text.Time(mtime, time.DateTime), err)
	}
	return nil
}

// farFrom reports whether two times differ by more than file systems round, which is
// two seconds at most.
func farFrom(a, b time.Time) bool {
	return math.Abs(float64(a.Unix())-float64(b.Unix())) > 2
}
