package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/volume"
)

// tree returns what is sealed of the input.
func (in Input) tree() volume.Source {
	if len(in.Paths) > 1 {
		return several{in}
	}
	path := in.Paths[0]
	switch {
	case in.FromStdin() && in.AsFile:
		return stream{in}
	case in.FromStdin():
		return tarStream{in}
	case in.isArchive(path):
		return archive{path, in.Exclude}
	case in.FileName != "":
		return renamed{dir{input: path}, in.FileName}
	}
	return Dir(path, in.Exclude...)
}

// Walk implements volume.Source. Standard input can be walked once.
func (in Input) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	err := in.tree().Walk(ctx, emit)
	if errors.Is(err, errEncrypted) {
		return fault.New(fault.Other, err, "what HPCS prepared is sealed by --from-hpcs FILE --hpcs-key KEY, in the place of -i; "+
			"--as-file seals the encrypted file as it is")
	}
	if errors.Is(err, ErrArchive) {
		return fault.New(fault.Other, err, "pack it anew with tar -czf NAME.tgz DIRECTORY, or seal the archive itself with --as-file")
	}
	return err
}

// Measure implements volume.Measurer, but for archives and standard input, whose
// contents' size is not known beforehand.
func (in Input) Measure(ctx context.Context) (volume.Usage, error) {
	if m, ok := in.tree().(volume.Measurer); ok {
		return m.Measure(ctx)
	}
	return volume.Usage{}, fmt.Errorf("%s: the size of what an archive holds is not known", in)
}

// renamed is one file under another name.
type renamed struct {
	dir
	name string
}

// Walk implements volume.Source.
func (r renamed) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	return r.dir.Walk(ctx, func(e volume.Entry) (uint32, error) {
		if e.Name != "" {
			e.Name = r.name
		}
		return emit(e)
	})
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

// one emits one input: its root becomes an entry of the common one, but for the
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
	return in.tree().Walk(ctx, func(e volume.Entry) (uint32, error) {
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

// Measure implements volume.Measurer.
func (s several) Measure(ctx context.Context) (volume.Usage, error) {
	var u volume.Usage
	for _, p := range s.in.Paths {
		one, err := s.in.only(p).Measure(ctx)
		if err != nil {
			return u, err
		}
		u.Entries += one.Entries
		u.PlainBytes += one.PlainBytes
		u.SealedBytes += one.SealedBytes
	}
	return u, nil
}
