package publish

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/volume"
)

// checkpointFormat is the value of a checkpoint's format field.
const checkpointFormat = "sealbatch-sealed/1"

// checkpoint is what is kept of a sealed file until it is published: what cannot be
// had from the file itself, or would have to be computed over all of it. It
// holds no secret; the key is wrapped to the user in the sealed file. While the
// file is being made, it tells of what is uploaded of it, and Size is 0.
type checkpoint struct {
	Format   string          `json:"format"`
	Sealed   string          `json:"sealed"`  // absolute path of the sealed file
	Input    volume.Digest   `json:"input"`   // its fingerprint
	Request  string          `json:"request"` // digest of what else went into the file
	VolumeID string          `json:"volume_id"`
	Digest   volume.Digest   `json:"digest"`
	Size     int64           `json:"size"`
	Segments []volume.Digest `json:"segments"`
	Partial  string          `json:"partial"` // on the site
}

// maxCheckpoint bounds the file: 80 bytes for each 64 MiB of a volume.
const maxCheckpoint = 16 << 20

// request is a digest of what goes into the sealed file besides the input.
func (r Request) request() string {
	h := sha256.New()
	for _, reader := range r.Readers {
		fmt.Fprintf(h, " %q", reader)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// statePath returns where what is kept of the sealed file lies.
func (p *publishing) statePath(suffix string) (string, error) {
	abs, err := filepath.Abs(p.r.SealedPath)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(abs))
	return filepath.Join(p.State, "sealed", hex.EncodeToString(sum[:16])+suffix), nil
}

// errBusy: another process works on the same sealed file.
var errBusy = errors.New("another sealbatch is writing this file")

// lock keeps a second run from working on the same sealed file. The lock ends
// with the process, however that ends.
func (p *publishing) lock() (func(), error) {
	if p.State == "" {
		return func() {}, nil
	}
	name, err := p.statePath(".lock")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := fsx.TryLock(f); err != nil {
		f.Close()
		return nil, fault.New(fault.Other, fmt.Errorf("%s: %w", p.r.SealedPath, errBusy),
			"wait for the other one, or choose another --data-path")
	}
	return func() { _ = fsx.Unlock(f) }, nil
}

// readCheckpoint returns the checkpoint of an earlier run; nil if there is none.
func (p *publishing) readCheckpoint() (*checkpoint, error) {
	if p.State == "" {
		return nil, nil
	}
	name, err := p.statePath(".json")
	if err != nil {
		return nil, err
	}
	b, err := trusted.ReadFile(name, maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c checkpoint
	if err := manifest.DecodeJSON(b, &c); err != nil || c.Format != checkpointFormat {
		return nil, fmt.Errorf("%s is damaged", name)
	}
	return &c, nil
}

// checkpoint returns what is kept of the sealed file by now.
func (p *publishing) checkpoint() checkpoint {
	return checkpoint{
		Format: checkpointFormat, Sealed: p.r.SealedPath, Input: p.input.fingerprint, Request: p.r.request(),
		VolumeID: p.s.ID.String(), Digest: p.s.Digest, Size: p.s.Size, Segments: p.s.Segments, Partial: p.partial(),
	}
}

// writeCheckpoint writes the checkpoint in one step. Without it the sealed file serves this run only.
func (p *publishing) writeCheckpoint() error {
	if p.State == "" {
		return nil
	}
	name, err := p.statePath(".json")
	if err != nil {
		return err
	}
	b, err := json.Marshal(p.checkpoint())
	if err != nil {
		return err
	}
	return fsx.Replace(name, b, 0o600)
}

// removeCheckpoint drops the checkpoint: the volume is published, or never will be.
func (p *publishing) removeCheckpoint() {
	if name, err := p.statePath(".json"); p.State != "" && err == nil {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.Log.Warn("the checkpoint of the sealed file stays", "error", err)
		}
	}
}
