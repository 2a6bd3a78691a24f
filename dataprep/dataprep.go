// Package dataprep is the workflow of data-prep: a dataset becomes a sealed
// volume on scratch, its key lies in the key service, and a signed info file
// tells job-prep about it.
package dataprep

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/manifest"
	"github.com/sealbatch/sealbatch/publish"
)

// Options are data-prep's flags.
type Options struct {
	Input      string // directory or file, local
	OutputDir  string // local directory of the sealed volume, if DataPath is empty
	DataPath   string // local path of the sealed volume
	AtRest     string // directory on the computing site
	Name       string // below /sd-container/encrypted; "" for the input's own
	Policy     manifest.Policy
	Recipients []age.Recipient
	Readers    []string // the recipients as text
	ServiceURL string
}

// Run prepares one dataset.
func Run(ctx context.Context, d publish.Deps, o Options) (publish.Published, error) {
	r, err := o.request()
	if err != nil {
		return publish.Published{}, err
	}
	return publish.Run(ctx, d, r)
}

func (o Options) request() (publish.Request, error) {
	input, err := filepath.Abs(o.Input)
	if err != nil {
		return publish.Request{}, err
	}
	if _, err := os.Stat(input); err != nil {
		return publish.Request{}, ui.Fail(ui.CodeUsage, fmt.Errorf("input data: %w", err), "-i names a directory or a file on this machine")
	}
	if o.Name == "" {
		o.Name = filepath.Base(input)
	}
	if o.DataPath == "" {
		if o.OutputDir == "" {
			return publish.Request{}, ui.Fail(ui.CodeUsage, fmt.Errorf("where should the sealed dataset go?"), "give --data-path FILE, or -o DIRECTORY")
		}
		o.DataPath = filepath.Join(o.OutputDir, "encrypted_"+o.Name+".sealed")
	}
	return publish.Request{
		Input: input, Kind: manifest.KindDataset, Name: o.Name, SealedPath: o.DataPath, RemoteDir: o.AtRest,
		Policy: o.Policy, Recipients: o.Recipients, Readers: o.Readers, ServiceURL: o.ServiceURL,
	}, nil
}
