package audit

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

// BenchmarkCheck compares 100,000 records with the log, as at the start and hourly.
func BenchmarkCheck(b *testing.B) {
	const n = 100_000
	st, err := boltstore.Open(filepath.Join(b.TempDir(), "store.db"), boltstore.MasterKey{1})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	for from := 0; from < n; from += 10_000 {
		err := st.Update(b.Context(), func(w store.Writer) (err error) {
			for i := range 10_000 {
				err = errors.Join(err, w.Put("releases", fmt.Sprintf("%032x//cluster/%d/0/node%d", i, from+i, i), make([]byte, 300)))
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		err := st.View(b.Context(), func(r store.Reader) error {
			_, err := new(Check).compare(r)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
