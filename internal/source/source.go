// Package source makes trees to be sealed of what a user names: directories,
// files, tar archives, several of them, and standard input.
package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/output"
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
	// AsFile makes files of archives and of standard input, which then needs a FileName.
	AsFile bool
	// FileName is what a single file is called in the volume; "" keeps its own name.
	FileName string
	Stdin    io.Reader
	// Spool is a directory for what standard input holds, encrypted: the length of
	// a file has to be known before its content is sealed. "" is that for
	// temporary files.
	Spool string
}

// At is the Input of one path.
func At(path string) Input { return Input{Paths: []string{path}} }

// endings are those of tar archives.
var endings = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2"}

// cutEnding returns the name of an archive's contents; false if it is not called
// as archives are.
func cutEnding(name string) (string, bool) {
	for _, end := range endings {
		if n := len(name) - len(end); n > 0 && strings.EqualFold(name[n:], end) {
			return name[:n], true
		}
	}
	return name, false
}

// FromStdin reports whether standard input is read.
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

// isArchive reports whether the contents of the file at path are sealed, not itself.
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
	case in.FromStdin() && in.AsFile && in.FileName == "":
		return fmt.Errorf("%w: standard input as one file has to be given a name", ErrInput)
	case in.FromStdin() && in.AsFile && (in.FileName == "." || in.FileName == ".." || strings.Contains(in.FileName, "/")):
		return fmt.Errorf("%w: standard input as one file has to be given a name, and %.80q is none of a file", ErrInput, in.FileName)
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
	in.Paths, in.FileName = []string{path}, ""
	return in
}

// Files are the inputs as an output is compared with them.
func (in Input) Files() []string {
	if in.FromStdin() {
		return []string{output.Stdin}
	}
	return slices.Clone(in.Paths)
}

// Scan looks at the input as the function Scan does. What an archive holds is not
// looked into. Of standard input nothing is known: the zero fingerprint says that
// it cannot be compared with what it is later.
func (in Input) Scan(ctx context.Context) (volume.Usage, volume.Digest, error) {
	var all volume.Usage
	if in.FromStdin() {
		return all, volume.Digest{}, nil
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %v %q\n", in.Exclude, in.AsFile, in.FileName)
	for _, p := range in.Paths {
		skip := in.Exclude
		if in.isArchive(p) {
			skip = nil
		}
		u, fingerprint, err := Scan(ctx, p, skip...)
		if err != nil {
			return u, fingerprint, err
		}
		all.Entries += u.Entries
		all.PlainBytes += u.PlainBytes
		all.SealedBytes += u.SealedBytes
		abs, err := filepath.Abs(p)
		if err != nil {
			return u, fingerprint, err
		}
		fmt.Fprintf(h, "%q %s\n", filepath.Base(abs), fingerprint) // however the path is spelled
	}
	return all, volume.Digest(h.Sum(nil)), nil
}

// ChangedSince is the function ChangedSince for the first path of which it can tell.
func (in Input) ChangedSince(ctx context.Context, since time.Time) string {
	for _, p := range in.Paths {
		if what := ChangedSince(ctx, p, since, in.Exclude...); what != "" {
			return what
		}
	}
	return ""
}
