package results

import (
	"bytes"
	"errors"
	"fmt"
	"path"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// readLeft reads what the job says of its outputs that it could not keep. That their names are
// not to be had keeps nobody from the rest.
func (f *fetch) readLeft() {
	if f.Receipt == nil || f.Receipt.Output.Left == nil {
		return
	}
	left := f.Receipt.Output.Left
	f.Lost = max(0, left.Entries-left.Special)
	all, err := f.namesOfLeft(left)
	if err != nil {
		f.Notes = append(f.Notes, fmt.Sprintf("what the job could not keep (%d entries) is not named: %v", left.Entries, err))
		return
	}
	for _, e := range all[:min(len(all), maxNamed)] {
		f.Left = append(f.Left, Damage{e.Path, errors.New(e.Reason)})
	}
}

func (f *fetch) namesOfLeft(left *manifest.Left) ([]jobdir.LeftEntry, error) {
	if left.Names == (manifest.Digest{}) {
		return nil, errors.New("the job could not write their names")
	}
	b, err := transfer.ReadFile(f.FS, path.Join(f.remote, jobdir.LeftName), jobdir.MaxLeftFile)
	if err != nil {
		return nil, err
	}
	if manifest.DigestOf(b) != left.Names {
		return nil, fmt.Errorf("%s is not the one that the job signed", jobdir.LeftName)
	}
	r, err := age.Decrypt(bytes.NewReader(b), f.Identities...)
	if err != nil {
		return nil, err
	}
	list, err := fsx.ReadAll(r, jobdir.MaxLeft)
	if err != nil {
		return nil, err
	}
	return jobdir.ParseLeft(string(list))
}
