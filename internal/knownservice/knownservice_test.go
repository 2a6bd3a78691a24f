package knownservice

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

const url = "https://keys.example.org:8443/at"

func newStore(t *testing.T) (Store, *bytes.Buffer) {
	t.Helper()
	said := new(bytes.Buffer)
	return Open(filepath.Join(t.TempDir(), "state"), slog.New(slog.NewTextHandler(said, nil))), said
}

func TestFirstUseAndChange(t *testing.T) {
	t.Parallel()
	s, said := newStore(t)
	first := keyapi.Service{ID: "keys#01", StatementKey: "AAAA"}
	if err := s.Check(url, first); err != nil || !strings.Contains(said.String(), "keys#01") {
		t.Fatalf("first use: %v\n%s", err, said)
	}
	fi, err := os.Stat(s.file(url))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatal(fi, err)
	}
	said.Reset()
	if err := s.Check(url, first); err != nil || said.Len() != 0 {
		t.Errorf("second use: %v\n%s", err, said)
	}
	for _, other := range []keyapi.Service{{ID: "keys#02", StatementKey: "BBBB"}, {ID: "keys#01", StatementKey: "BBBB"},
		{ID: "keys#02", StatementKey: "AAAA"}} {
		err := s.Check(url, other)
		if !errors.Is(err, ErrChanged) || fault.ClassOf(err) != fault.Integrity || !strings.Contains(fault.Hint(err), s.file(url)) ||
			!strings.Contains(err.Error(), other.StatementKey) || !strings.Contains(err.Error(), first.StatementKey) {
			t.Errorf("%v: %v, hint %s", other, err, fault.Hint(err))
		}
	}
	if err := s.Check("https://keys.example.org:8443_at", keyapi.Service{ID: "other#03", StatementKey: "CCCC"}); err != nil {
		t.Errorf("another address: %v", err)
	}
	if err := os.Remove(s.file(url)); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(url, keyapi.Service{ID: "keys#02", StatementKey: "BBBB"}); err != nil {
		t.Errorf("accepted on purpose: %v", err)
	}
}

// A file that is not whole, or that others can write, is no reason to believe whoever answers.
func TestFileThatDoesNotCount(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	got := keyapi.Service{ID: "keys#01", StatementKey: "AAAA"}
	if err := s.Check(url, got); err != nil {
		t.Fatal(err)
	}
	file := s.file(url)
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(url, got); !errors.Is(err, trusted.ErrUnsafe) {
		t.Errorf("a file that others can write: %v", err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{}", `{"format":"sealbatch-service/1","url":"https://other","id":"keys#01","statement_key":"AAAA"}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(url, got); fault.ClassOf(err) != fault.Integrity || fault.Hint(err) == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Where somebody else could have removed what was remembered, no use is a first one.
func TestDirectoryOfOthers(t *testing.T) {
	t.Parallel()
	for _, made := range []string{"", "services"} {
		s, _ := newStore(t)
		if err := os.MkdirAll(filepath.Join(filepath.Dir(s.Dir), made), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(filepath.Dir(s.Dir), made), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(url, keyapi.Service{ID: "keys#01", StatementKey: "AAAA"}); !errors.Is(err, trusted.ErrUnsafe) {
			t.Errorf("%q: %v", made, err)
		}
	}
}

// Where nothing can be written, it is said, and goes on.
func TestNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	s, said := newStore(t)
	s.Dir = "/proc/nowhere/services"
	if err := s.Check(url, keyapi.Service{ID: "keys#01", StatementKey: "AAAA"}); err != nil || !strings.Contains(said.String(), "level=WARN") {
		t.Errorf("%v\n%s", err, said)
	}
}
