package submission

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// Beside the records lie the keys of results that were wrapped to other recipients
// than those of the job, one file a volume as keys.age in it: RUN.keys/VOLUME.age.

func (s Store) keysDir(run string) string { return filepath.Join(s.dir, run+".keys") }

// SaveKey keeps a wrapped key of a run's results, in the place of one before.
func (s Store) SaveKey(run, volume string, wrapped []byte) error {
	if err := os.MkdirAll(s.keysDir(run), 0o700); err != nil {
		return fmt.Errorf("keep a key of results: %w", err)
	}
	if err := fsx.Replace(filepath.Join(s.keysDir(run), volume+".age"), wrapped, 0o600); err != nil {
		return fmt.Errorf("keep a key of results: %w", err)
	}
	return nil
}

// Key returns what SaveKey kept; fs.ErrNotExist if nothing.
func (s Store) Key(run, volume string) ([]byte, error) {
	return trusted.ReadFile(filepath.Join(s.keysDir(run), volume+".age"), maxRecord)
}
