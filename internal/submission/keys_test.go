package submission

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// TestKeys: what is kept beside a record is found again, is nobody else's to read,
// and goes with the record.
func TestKeys(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Key("run", "volume"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	for _, b := range []string{"first", "second"} {
		if err := s.SaveKey("run", "volume", []byte(b)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Key("run", "volume"); err != nil || string(got) != b {
			t.Errorf("%q, %v; want %q", got, err, b)
		}
	}
	if st, err := os.Stat(s.keysDir("run")); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st, err)
	}
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("records: %v, %v", all, err)
	}
	if err := s.Remove("run"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Key("run", "volume"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the record: %v", err)
	}
}
