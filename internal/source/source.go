// Package source makes trees to be sealed of what a user names: directories,
// files, tar archives, several of them, and standard input.
package source

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

// Stdin is the path that means standard input.
const Stdin = "-"

// ErrInput: inputs that cannot be put together as they were named.
var ErrInput = errors.New("unusable input")

// Input is what a user named. One directory's contents become the volume, and so
// do a tar archive's; of several inputs, and of one file, each becomes an entry.
type Input struct {
	// Paths are local; a single one may be Stdin, which is a tar archive.
	Paths   []string
	Exclude []Pattern
	// AsFile makes files of archives, and one called Name of standard input.
	AsFile bool
	Name   string
	Stdin  io.Reader
	// Spool is a directory for what standard input holds, encrypted: the length of
	// a file has to be known before its content is sealed. "" is that for
	// temporary files.
	Spool string
}

// HintArchive is what to do about ErrArchive.
const HintArchive = "pack it anew with tar -czf NAME.tgz DIRECTORY, or seal the archive itself with --as-file"

// At is the Input of one path.
func At(path string) Input { return Input{Paths: []string{path}} }

// endings are those of tar archives.
var endings = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2"}

// cutEnding gives the name of an archive's contents; false if it is not called
// as archives are.
func cutEnding(name string) (string, bool) {
	for _, end := range endings {
		if n := len(name) - len(end); n > 0 && strings.EqualFold(name[n:], end) {
			return name[:n], true
		}
	}
	return name, false
}

// FromStdin tells whether standard input is read.
func (in Input) FromStdin() bool { return len(in.Paths) == 1 && in.Paths[0] == Stdin }

// String names the input in messages.
func (in Input) String() string {
	if in.FromStdin() {
		return "standard input"
	}
	return strings.Join(in.Paths, ", ")
}

// DatasetName is how the input is called as a whole: a directory's or file's
// name, an archive's without its ending; "" if it has to be named.
func (in Input) DatasetName() (string, error) {
	if len(in.Paths) != 1 || in.FromStdin() {
		return "", nil
	}
	abs, err := filepath.Abs(in.Paths[0])
	if err != nil {
		return "", err
	}
	name := filepath.Base(abs)
	if in.isArchive(in.Paths[0]) {
		name, _ = cutEnding(name)
	}
	return name, nil
}

// isArchive tells whether the contents of the file at path are sealed, not itself.
func (in Input) isArchive(path string) bool {
	if _, ok := cutEnding(filepath.Base(path)); !ok || in.AsFile {
		return false
	}
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// Check finds out whether the inputs go together, without reading them. ErrInput
// if they do not.
func (in Input) Check() error {
	names := map[string]string{}
	switch {
	case len(in.Paths) == 0:
		return fmt.Errorf("%w: none is named", ErrInput)
	case in.FromStdin() && in.AsFile && (in.Name == "" || strings.Contains(in.Name, "/")):
		return fmt.Errorf("%w: standard input as one file has to be given a name", ErrInput)
	}
	for _, p := range in.Paths {
		if p == Stdin && len(in.Paths) > 1 {
			return fmt.Errorf("%w: standard input goes with no other", ErrInput)
		}
		if p == Stdin {
			continue
		}
		if _, err := os.Stat(p); err != nil {
			return err
		}
		name, err := in.only(p).DatasetName()
		if err != nil {
			return err
		}
		if old, ok := names[name]; ok {
			return fmt.Errorf("%w: %q and %q would both be called %q", ErrInput, old, p, name)
		}
		names[name] = p
	}
	return nil
}

// only is one of several inputs.
func (in Input) only(path string) Input {
	in.Paths = []string{path}
	return in
}

// Source is the tree. It can be walked once if it is standard input.
func (in Input) Source() volume.Source {
	if len(in.Paths) > 1 {
		return several{in}
	}
	return in.single()
}

func (in Input) single() volume.Source {
	path := in.Paths[0]
	switch {
	case in.FromStdin() && in.AsFile:
		return stream{in}
	case in.FromStdin():
		return tarStream{in}
	case in.isArchive(path):
		return archive{path, in.Exclude}
	}
	return Dir(path, in.Exclude...)
}

// Scan surveys the input as the function Scan does. What an archive holds is not
// looked into; nothing is known of standard input, and its fingerprint never
// comes again.
func (in Input) Scan(ctx context.Context) (Survey, error) {
	if in.FromStdin() {
		var s Survey
		_, err := rand.Read(s.Fingerprint[:])
		return s, err
	}
	var all Survey
	h := sha256.New()
	for _, p := range in.Paths {
		skip := in.Exclude
		if in.isArchive(p) {
			skip = nil
		}
		s, err := Scan(ctx, p, skip...)
		if err != nil {
			return s, err
		}
		all.Entries += s.Entries
		all.PlainBytes += s.PlainBytes
		all.SealedBytes += s.SealedBytes
		fmt.Fprintf(h, "%q %s\n", p, s.Fingerprint)
	}
	all.Fingerprint = volume.Digest(h.Sum(nil))
	return all, nil
}

// ChangedSince is ChangedSince for the first input of which it can tell.
func (in Input) ChangedSince(ctx context.Context, since time.Time) string {
	for _, p := range in.Paths {
		if what := ChangedSince(ctx, p, since, in.Exclude...); what != "" {
			return what
		}
	}
	return ""
}

// archive is the contents of a tar archive on disk.
type archive struct {
	path    string
	exclude []Pattern
}

// Walk implements volume.Source. The file is opened, and compared afterwards
// with what it was, as every other.
func (a archive) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	top, _ := cutEnding(filepath.Base(a.path))
	return Dir(a.path).Walk(ctx, func(e volume.Entry) (uint32, error) {
		if e.Open == nil {
			return 0, nil // the root that is made for a single file
		}
		r, err := e.Open()
		if err != nil {
			return 0, err
		}
		err = Tar(ctx, r, top, a.exclude, emit)
		if cerr := r.Close(); cerr != nil { // because of which the rest may have failed
			err = cerr
		}
		return 0, err
	})
}

// tarStream is a tar archive on standard input.
type tarStream struct{ in Input }

// Walk implements volume.Source.
func (t tarStream) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	return Tar(ctx, t.in.Stdin, "", t.in.Exclude, emit)
}

// several are inputs side by side under a root of their own.
type several struct{ in Input }

// Walk implements volume.Source.
func (s several) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	root := volume.Attr{Type: volume.Dir, Mode: 0o755}
	for _, p := range s.in.Paths { // as young as the youngest
		fi, err := os.Stat(p)
		if err != nil {
			return err
		}
		if fi.ModTime().After(root.Mtime) {
			root.Mtime = fi.ModTime()
		}
	}
	top, err := emit(volume.Entry{Attr: root})
	if err != nil {
		return err
	}
	for _, p := range s.in.Paths {
		if err := s.one(ctx, p, top, emit); err != nil {
			return err
		}
	}
	return nil
}

// one gives one input: its root becomes an entry of the common one, but for the
// root that is made for a single file.
func (s several) one(ctx context.Context, path string, top uint32, emit func(volume.Entry) (uint32, error)) error {
	in := s.in.only(path)
	name, err := in.DatasetName()
	if err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	flat := fi.Mode().IsRegular() && !in.isArchive(path)
	first := true
	return in.single().Walk(ctx, func(e volume.Entry) (uint32, error) {
		if first {
			first = false
			if flat {
				return top, nil
			}
			e.Parent, e.Name = top, name
		} else if flat {
			e.Parent = top
		}
		return emit(e)
	})
}

// Measure implements volume.Measurer, but for archives, which do not tell.
func (s several) Measure(ctx context.Context) (volume.Usage, error) {
	var u volume.Usage
	for _, p := range s.in.Paths {
		m, ok := s.in.only(p).single().(volume.Measurer)
		if !ok {
			return u, fmt.Errorf("%s: the size of an archive's contents is not known", p)
		}
		one, err := m.Measure(ctx)
		if err != nil {
			return u, err
		}
		u.Entries += one.Entries
		u.PlainBytes += one.PlainBytes
		u.SealedBytes += one.SealedBytes
	}
	return u, nil
}
