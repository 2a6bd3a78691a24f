package results

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/jobdir"
)

// maxLinks bounds how many symbolic links are looked at.
const maxLinks = 1 << 20

// findLinks finds the symbolic links by which whoever follows them leaves the tree.
func (f *fetch) findLinks(tree string) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return
	}
	defer root.Close()
	c := newCollector()
	for path, target := range f.links {
		_, err := root.Stat(path)
		var errno syscall.Errno
		// os.Root's own error, which has no other mark, says that the path leaves it. A directory that
		// cannot be entered hides what lies behind it.
		if out := err != nil && !errors.As(err, &errno); out || errors.Is(err, fs.ErrPermission) && leaves(path, target) {
			c.add(path, errors.New(target))
		}
	}
	f.Links = c.sorted()
}

// leaves reports whether a link's target leads out by its own words.
func leaves(path, target string) bool {
	return filepath.IsAbs(target) || !filepath.IsLocal(filepath.Join(filepath.Dir(path), target))
}

// beside puts what the application printed, and how it ended, beside its directory, where they are
// found whatever else it wrote: NODE.stdout, NODE.stderr, NODE.exit_code. The files in the directory stay, and
// what has such a name already is left as it is.
func (f *fetch) beside() {
	for _, name := range []string{jobdir.StdoutName, jobdir.StderrName} {
		f.noteBeside(name, f.linkBeside(name))
	}
	if f.Receipt == nil {
		f.noteBeside(jobdir.ExitCodeName, f.linkBeside(jobdir.ExitCodeName))
		return
	}
	if f.Receipt.Exit >= 0 {
		f.noteBeside(jobdir.ExitCodeName, f.writeBeside(jobdir.ExitCodeName, strings.NewReader(strconv.Itoa(f.Receipt.Exit)+"\n")))
	}
}

func (f *fetch) noteBeside(name string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !(f.Before && errors.Is(err, fs.ErrExist)) {
		f.Notes = append(f.Notes, fmt.Sprintf("%s.%s is not written: %v", f.Name, name, err))
	}
}

// linkBeside gives a file of the directory a second name, or copies it where there are no hard links.
// The application may have put a link in its place, which is not followed.
func (f *fetch) linkBeside(name string) error {
	from := filepath.Join(f.Dir, name)
	fi, err := os.Lstat(from)
	if err != nil || !fi.Mode().IsRegular() {
		return err
	}
	err = os.Link(from, f.out.path(f.Name+"."+name))
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	return f.writeBeside(name, r)
}

func (f *fetch) writeBeside(name string, r io.Reader) error {
	w, err := os.OpenFile(f.out.path(f.Name+"."+name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
