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

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// recordFormat is the value of a record's format field.
const recordFormat = "sealbatch-published/1"

// record is what is kept of a published volume on this machine, by which the same
// command again is recognised. It holds no secret. What it says of the input is nowhere
// else: storage must not learn what is equal.
type record struct {
	checkpoint
	Expiry string `json:"expiry"` // Target's
	Site   string `json:"site"`   // Deps'
	Info   string `json:"info"`   // the info file
}

// recordPath returns where the record of the volume's newest version is, which has its
// name and kind at the key service.
func (p *publishing) recordPath() string {
	sum := sha256.Sum256([]byte(p.r.ServiceURL + "\x00" + string(p.r.Kind) + "\x00" + p.r.volumeName()))
	return filepath.Join(p.State, "published", hex.EncodeToString(sum[:16])+".json")
}

// readRecord returns what was published under that name before; nil if that is not known.
func (p *publishing) readRecord() (*record, error) {
	if p.State == "" {
		return nil, nil
	}
	b, err := trusted.ReadFile(p.recordPath(), maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := manifest.DecodeJSON(b, &r); err != nil || r.Format != recordFormat {
		return nil, fmt.Errorf("%s is damaged", p.recordPath())
	}
	return &r, nil
}

// writeRecord keeps what was published. Without it the same command seals again.
func (p *publishing) writeRecord(info manifest.Info) error {
	if p.State == "" {
		return nil
	}
	encoded, err := info.Encode()
	if err != nil {
		return err
	}
	return p.saveRecord(record{checkpoint: p.checkpoint(), Expiry: p.r.Expiry, Site: p.Site, Info: string(encoded)})
}

func (p *publishing) saveRecord(r record) error {
	r.Format = recordFormat
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.recordPath()), 0o700); err != nil {
		return err
	}
	return fsx.Replace(p.recordPath(), b, 0o600)
}
