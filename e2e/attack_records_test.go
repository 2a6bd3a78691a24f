package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Attacks on the key service's records by somebody who can write its files and
// has not its master key.

// bolt changes or reads a store's file.
func bolt(t *testing.T, path string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// The owner takes mallory out of a volume's policy. Somebody puts the two records
// of that volume back that the store had before, sealed as they were.
func TestAttackOldRecord(t *testing.T) {
	t.Parallel()
	attack{without: []string{"records checked"}, own: true, says: "was put back, altered or added",
		play: func(t *testing.T, w *world) outcome {
			v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice", "mallory"))
			dir, _ := w.dir()
			store := onDisk(t, "keys", dir+"/data/store.db")
			old := recordsOf(t, store, v.ID)
			if a := w.call(t, alice, http.MethodPut, "/v1/secrets/"+v.ID+"/policy", openTo("alice")); a.status != http.StatusOK {
				t.Fatalf("%s", a.body)
			}
			if o := w.claimsAs(t, mallory, v); o.gained {
				t.Fatal("the policy names mallory still")
			}
			w.stopKeys(t)
			bolt(t, store, func(tx *bbolt.Tx) (err error) {
				for bucket, value := range old {
					err = errors.Join(err, tx.Bucket([]byte(bucket)).Put([]byte(v.ID), value))
				}
				return err
			})
			if says := w.startKeys(t); says != "" {
				return keptOut("%s", says)
			}
			return w.claimsAs(t, mallory, v)
		}}.run(t)
}

// recordsOf returns the sealed values that a running service's store has of a
// volume, by bucket.
func recordsOf(t *testing.T, store, volume string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(store)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(copied, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	bolt(t, copied, func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			if value := b.Get([]byte(volume)); value != nil {
				out[string(name)] = bytes.Clone(value)
			}
			return nil
		})
	})
	if names := slices.Sorted(maps.Keys(out)); !slices.Equal(names, []string{"policies", "secrets"}) {
		t.Fatalf("the store has of the volume: %q", names)
	}
	return out
}

// stopKeys ends a world's own key service.
func (w *world) stopKeys(t *testing.T) {
	t.Helper()
	must(t, "keys", "root", "sh", "-c", `kill "$1"; while kill -0 "$1" 2>/dev/null; do sleep 0.05; done`, "sh", w.pids[w.keys.address])
}

// startKeys starts it again. If it ends by itself, its last words are returned.
func (w *world) startKeys(t *testing.T) string {
	t.Helper()
	dir, _ := w.dir()
	pid := must(t, "keys", "root", "sh", "-c",
		`SEALBATCH_OFF="$3" SEALBATCH_AHEAD="$4" "$1/sealbatch" serve --config "$2/server.conf" </dev/null >"$2/again" 2>&1 & echo $!`,
		"sh", w.programs, dir, strings.Join(w.off, ","), w.ahead)
	t.Cleanup(func() { run(context.Background(), "keys", "root", nil, "kill", pid) })
	w.pids[w.keys.address] = pid
	says := ""
	eventually(t, 30*time.Second, "the service answers or ends", func() bool {
		conn, err := place{"laptop", "alice"}.dial(t.Context(), w.keys.address)
		if err == nil {
			return conn.Close() == nil
		}
		if run(t.Context(), "keys", "root", nil, "kill", "-0", pid).code == 0 {
			return false
		}
		says = must(t, "keys", "root", "grep", "error: ", dir+"/again")
		return true
	})
	return says
}
