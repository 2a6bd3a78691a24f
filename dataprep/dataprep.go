// Package dataprep is the workflow of data-prep: a dataset becomes a sealed
// volume on scratch, its key lies in the key service, and a signed info file
// tells job-prep about it.
package dataprep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/hpcs"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/source"
)

// Options are data-prep's flags.
type Options struct {
	publish.Target // Name may be empty: the input's own
	Input          source.Input
	HPCS           hpcs.Named // what HPCS prepared, in place of Input
	OutputDir      string     // local directory of the sealed volume, if SealedPath is empty
}

// Run prepares one dataset.
func Run(ctx context.Context, d publish.Deps, o Options) (publish.Published, error) {
	if o.HPCS.Path != "" {
		return o.fromHPCS(ctx, d)
	}
	r, err := o.request()
	if err != nil {
		return publish.Published{}, err
	}
	return publish.Run(ctx, d, r)
}

// fromHPCS prepares a dataset that HPCS prepared before: it is decrypted while it is sealed.
func (o Options) fromHPCS(ctx context.Context, d publish.Deps) (publish.Published, error) {
	if o.Input.AsFile {
		return publish.Published{}, fault.New(fault.Usage, errors.New("--as-file does not go with --from-hpcs: the archive in it is "+
			"what is sealed of it"), "leave --as-file out")
	}
	a, err := o.HPCS.Open(d.FS, d.Log)
	if err != nil {
		return publish.Published{}, err
	}
	in := hpcs.Dataset{Artefact: a, Exclude: o.Input.Exclude}
	if in.Top, err = a.Top(ctx); err != nil {
		return publish.Published{}, err
	}
	t := o.Target
	t.Reads = append(slices.Clone(t.Reads), o.HPCS.KeyFile)
	if t.Name == "" { // below which HPCS unpacked it
		t.Name = cmp.Or(in.Top, hpcs.Name(a.Path))
	}
	if t, err = o.complete(t, in); err != nil {
		return publish.Published{}, err
	}
	return publish.Run(ctx, d, publish.Request{Target: t, Input: in, Kind: manifest.KindDataset})
}

// input returns the input with absolute paths, checked.
func (o Options) input() (source.Input, error) {
	in := o.Input
	in.Paths = nil
	for _, p := range o.Input.Paths {
		if p != source.Stdin {
			var err error
			if p, err = filepath.Abs(p); err != nil {
				return in, err
			}
		}
		in.Paths = append(in.Paths, p)
	}
	if in.FromStdin() {
		if o.Name == "" {
			return in, nil // refused below, with a hint
		}
		in.FileName = o.Name
	}
	return in, in.Check()
}

func (o Options) request() (publish.Request, error) {
	in, err := o.input()
	if err != nil {
		return publish.Request{}, fault.New(fault.Usage, fmt.Errorf("input data: %w", err),
			"-i names a directory, a file or a tar archive on this machine, or - for standard input")
	}
	t := o.Target
	if t.Name == "" {
		if t.Name, err = in.DatasetName(); err != nil {
			return publish.Request{}, err
		}
	}
	if t, err = o.complete(t, in); err != nil {
		return publish.Request{}, err
	}
	in.Spool = filepath.Dir(t.SealedPath)
	return publish.Request{Target: t, Input: in, Kind: manifest.KindDataset}, nil
}

// complete returns t with the path of the sealed file.
func (o Options) complete(t publish.Target, in fmt.Stringer) (publish.Target, error) {
	if t.Name == "" {
		return t, fault.New(fault.Usage, fmt.Errorf("%s needs a name, below which it is found in the job", in), "give --name NAME")
	}
	if t.SealedPath == "" {
		if o.OutputDir == "" {
			return t, fault.New(fault.Usage, fmt.Errorf("where should the sealed dataset go?"), "give --data-path FILE, or -o DIRECTORY")
		}
		t.SealedPath = filepath.Join(o.OutputDir, "encrypted_"+t.Name+".sealed")
	}
	return t, nil
}
