package publish

import (
	"bytes"
	"context"
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
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// memoryFormat is the value of a memory's format field.
const memoryFormat = "sealbatch-sealed/1"

// memory is what is kept of a sealed file until it is published: what cannot be
// had from the file itself, or would have to be computed over all of it. It
// holds no secret; the key is wrapped to the user in the sealed file. While the
// file is being made, it tells of what is uploaded of it, and Size is 0.
type memory struct {
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

// maxMemory bounds the file: 80 bytes for each 64 MiB of a volume.
const maxMemory = 16 << 20

// request is a digest of what goes into the sealed file besides the input.
func (r Request) request() string {
	h := sha256.New()
	for _, reader := range r.Readers {
		fmt.Fprintf(h, " %q", reader)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// file is where the memory of the request's sealed file lies.
func (p *publishing) file(suffix string) (string, error) {
	abs, err := filepath.Abs(p.r.SealedPath)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(abs))
	return filepath.Join(p.State, "sealed", hex.EncodeToString(sum[:16])+suffix), nil
}

// lock keeps a second run from working on the same sealed file. The lock ends
// with the process, however that ends.
func (p *publishing) lock() (func(), error) {
	if p.State == "" {
		return func() {}, nil
	}
	name, err := p.file(".lock")
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
		return nil, fault.New(fault.Other, fmt.Errorf("%s: %w", p.r.SealedPath, volume.ErrBusy), "wait for the other one, or choose another --data-path")
	}
	return func() { f.Close() }, nil
}

// sealed gives p its sealed file: that of an earlier run, if it was made from
// just this and can still be opened, or a new one.
func (p *publishing) sealed(ctx context.Context) error {
	m, err := p.recall()
	if err == nil && m != nil {
		err = p.goOn(*m)
	}
	if m != nil && (err != nil || m.Partial != p.partial()) {
		_ = p.FS.Remove(m.Partial) // of a volume, or at a place, that will never be published
	}
	if err == nil && m != nil {
		p.Log.Info("going on with the sealed file of an earlier run", "file", p.r.SealedPath)
		return nil
	}
	if err != nil {
		p.Log.Info("sealing again: the sealed file of an earlier run cannot be used", "reason", err)
	}
	if m != nil {
		p.forget()
	}
	s, err := p.seal(ctx)
	if err != nil {
		return err
	}
	p.s = s
	return p.remember()
}

// recall reads the memory; nil if there is none.
func (p *publishing) recall() (*memory, error) {
	if p.State == "" {
		return nil, nil
	}
	name, err := p.file(".json")
	if err != nil {
		return nil, err
	}
	b, err := transfer.ReadFile(transfer.Local{}, name, maxMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m memory
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil || m.Format != memoryFormat {
		return nil, fmt.Errorf("%s is damaged", name)
	}
	return &m, nil
}

// goOn takes the sealed file up again. Its key comes out of the file; that it
// is the file that was made, the digests say.
func (p *publishing) goOn(m memory) error {
	switch {
	case m.Size == 0:
		return errors.New("it was not sealed to its end")
	case !p.input.resumable():
		return errors.New("the input cannot be compared with what it was")
	case m.Input != p.input.fingerprint:
		return errors.New("the input has changed since")
	case m.Request != p.r.request():
		return errors.New("it was made for other recipients")
	case p.Identities == nil:
		return errors.New("there is no key here that opens it")
	}
	f, err := os.OpenFile(p.r.SealedPath, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != m.Size || !st.Mode().IsRegular() {
		return errors.Join(errors.New("its size is not that of the file that was made"), err)
	}
	id, digest, err := volume.ReadDigest(f, m.Size)
	if err != nil {
		return err
	}
	if id.String() != m.VolumeID || digest != m.Digest {
		return errors.New("it is not the file that was made")
	}
	ids, err := p.Identities()
	if err != nil {
		return err
	}
	key, err := volume.UnwrapKey(f, m.Size, ids...)
	if err != nil {
		return err
	}
	if _, err := volume.Open(f, m.Size, key); err != nil { // the key that it wraps is the one that it was sealed with
		key.Wipe()
		return err
	}
	p.s = volume.Sealed{ID: id, Digest: digest, Size: m.Size, Checksum: volume.ChecksumOf(m.Segments), Segments: m.Segments, Key: key}
	return nil
}

// remember writes the memory in one step. Without it the sealed file serves this run only.
func (p *publishing) remember() error {
	if p.State == "" {
		return nil
	}
	name, err := p.file(".json")
	if err != nil {
		return err
	}
	b, err := json.Marshal(memory{
		Format: memoryFormat, Sealed: p.r.SealedPath, Input: p.input.fingerprint, Request: p.r.request(), VolumeID: p.s.ID.String(),
		Digest: p.s.Digest, Size: p.s.Size, Segments: p.s.Segments, Partial: p.partial(),
	})
	if err != nil {
		return err
	}
	return transfer.PutFile(context.Background(), transfer.Local{}, name, b, 0o600)
}

// forget drops the memory: the volume is published, or never will be.
func (p *publishing) forget() {
	if name, err := p.file(".json"); p.State != "" && err == nil {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.Log.Warn("what was remembered of the sealed file stays", "error", err)
		}
	}
}
