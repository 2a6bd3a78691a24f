package keyserver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
)

// TestRolledBackTogether puts log and store back to an older state, both:
// nothing in them shows it, a kept head does.
func TestRolledBackTogether(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 2)
	b.stop(t)
	store := filepath.Join(b.dir, "store.db")
	oldLog := b.read(t)
	oldStore, err := os.ReadFile(store)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	b.write(t, 2)
	b.stop(t)
	_, kept, err := b.entries(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(b.log(), oldLog, 0o600), os.WriteFile(store, oldStore, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := b.start(); err != nil {
		t.Fatalf("the service cannot know: %v", err)
	}
	b.write(t, 3) // and goes beyond the kept head
	b.stop(t)
	remembered := keyapi.AuditHead{Seq: kept.Seq, Hash: kept.Hash}
	if _, _, err := b.entries(t, remembered); !errors.Is(err, audit.ErrHead) {
		t.Errorf("with the kept head: %v", err)
	}
	if n, _, err := b.entries(t); err != nil || n != 5 {
		t.Errorf("control, without it: %d entries, %v", n, err)
	}
}

// TestStartAfterTampering starts a service on a log and a store of which one
// was altered or put back.
func TestStartAfterTampering(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(t *testing.T, log, store string, lines []string, oldStore []byte) error
		want   error
	}{
		"control": {func(*testing.T, string, string, []string, []byte) error { return nil }, nil},
		"log cut": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			return os.WriteFile(log, []byte(strings.Join(l[:len(l)-1], "")), 0o600)
		}, audit.ErrRolledBack},
		"log removed": {func(_ *testing.T, log, _ string, _ []string, _ []byte) error { return os.Remove(log) }, audit.ErrRolledBack},
		"log edited": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			l[1] = strings.Replace(l[1], "alice", "mallo", 1)
			return os.WriteFile(log, []byte(strings.Join(l, "")), 0o600)
		}, audit.ErrBroken},
		"last line edited": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			l[len(l)-1] = strings.Replace(l[len(l)-1], "alice", "mallo", 1)
			return os.WriteFile(log, []byte(strings.Join(l, "")), 0o600)
		}, audit.ErrRolledBack},
		"store put back": {func(_ *testing.T, _, store string, _ []string, old []byte) error {
			return os.WriteFile(store, old, 0o600)
		}, audit.ErrRolledBack},
		"torn line after a crash": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			return os.WriteFile(log, []byte(strings.Join(l, "")+l[0][:20]), 0o600)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.write(t, 2)
			b.stop(t)
			old, err := os.ReadFile(filepath.Join(b.dir, "store.db"))
			if err != nil {
				t.Fatal(err)
			}
			if err := b.start(); err != nil {
				t.Fatal(err)
			}
			b.write(t, 3)
			b.stop(t)
			lines := strings.SplitAfter(string(b.read(t)), "\n")
			lines = lines[:len(lines)-1]
			if err := tc.change(t, b.log(), filepath.Join(b.dir, "store.db"), lines, old); err != nil {
				t.Fatal(err)
			}
			err = b.start()
			if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
				t.Fatalf("start: %v; want %v", err, tc.want)
			}
			if err != nil {
				return
			}
			b.write(t, 1)
			b.stop(t)
			if n, _, err := b.entries(t); err != nil || n != 6 {
				t.Errorf("afterwards: %d entries, %v", n, err)
			}
		})
	}
}
