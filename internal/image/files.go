package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/text"
)

// files are what a directory or an archive holds, by slash-separated names below it.
type files interface {
	// open returns a regular file's content and size; fs.ErrNotExist if there is none.
	open(name string) (io.ReadCloser, int64, error)
	io.Closer
}

// has reports whether f has a regular file of that name, and returns its size.
func has(f files, name string) (int64, bool) {
	r, size, err := f.open(name)
	if err != nil {
		return 0, false
	}
	r.Close()
	return size, true
}

// readFile reads all of a file of at most limit bytes.
func readFile(f files, name string, limit int64) ([]byte, error) {
	r, size, err := f.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: its %s is missing", ErrFormat, text.Printable(name))
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > limit {
		return nil, fmt.Errorf("%w: its %s has %s, and %s is the most", ErrFormat, text.Printable(name), text.Size(size), text.Size(limit))
	}
	b, err := fsx.ReadAll(r, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text.Printable(name), err)
	}
	return b, nil
}

// directory is an OCI layout on disk. Links in it do not lead out of it.
type directory struct{ root *os.Root }

func openDirectory(path string) (*directory, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &directory{root}, nil
}

// Close implements io.Closer.
func (d *directory) Close() error { return d.root.Close() }

// open implements files. A named pipe is not waited for.
func (d *directory) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, 0, err
	}
	if err != nil { // a link that leads out of it, most of all
		return nil, 0, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: its %s is not a regular file", ErrFormat, text.Printable(name))
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}
