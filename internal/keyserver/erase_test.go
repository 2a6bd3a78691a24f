package keyserver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// lent is the key store of a running service, which fails where it is told to.
type lent struct {
	store.KeyStore
	broken atomic.Bool
	half   atomic.Bool // what is destroyed is not given out any more, but not wiped
	wiped  atomic.Int32
}

func (l *lent) DestroyKey(ctx context.Context, volume string) error {
	if l.broken.Load() {
		return errors.New("the disk is broken")
	}
	err := l.KeyStore.DestroyKey(ctx, volume)
	if l.half.Load() {
		return errors.Join(err, errors.New("the disk does not sync"))
	}
	l.wiped.Add(1)
	return err
}

// lending has a service's key store be seen by the test.
func lending(o keyservertest.Options) (keyservertest.Options, *lent) {
	l := &lent{}
	o.Keys = func(s store.KeyStore) store.KeyStore { l.KeyStore = s; return l }
	return o, l
}

func (l *lent) has(t *testing.T, volume string) bool {
	t.Helper()
	_, err := l.Key(t.Context(), volume)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	return err == nil
}

// releaseOf registers a job for a volume and returns its request for the key.
func releaseOf(t *testing.T, s *site, v keyservertest.Volume) keyclient.ReleaseRequest {
	t.Helper()
	m, b := s.Manifest(t, nil, v)
	return keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.alice, b), Node: "cn1",
		Job: manifest.Job{Cluster: s.Cluster, ID: 7, ArrayTask: -1}, Attest: s.Attest("alice", 1000, nil, nil)}
}

// pieces returns how many pieces of secret bytes lie in a file.
func pieces(t *testing.T, path string, secret []byte) (n int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+8 <= len(secret); i += 8 {
		if bytes.Contains(raw, secret[i:i+8]) {
			n++
		}
	}
	return n
}

// sealedRecord reads a record of a stopped service as it lies in the file.
func sealedRecord(t *testing.T, path, bucket, key string) (v []byte) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error { v = bytes.Clone(tx.Bucket([]byte(bucket)).Get([]byte(key))); return nil })
	if err := errors.Join(err, db.Close()); err != nil || v == nil {
		t.Fatal("no such record", err)
	}
	return v
}

// sealedKey returns the bytes that a volume's slot holds of its key.
func sealedKey(t *testing.T, path, volume string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for from := 4096; from+128 <= len(raw); from += 128 {
		if fmt.Sprintf("%x", raw[from:from+16]) == volume {
			return bytes.Clone(raw[from+16 : from+76])
		}
	}
	t.Fatal("the volume has no slot")
	return nil
}

// TestErasure looks at the files' bytes: of a revoked volume no piece of the
// sealed key is left, of a deleted one neither that nor its record.
func TestErasure(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	revoked := s.Deposit(t, s.alice, "revoked", manifest.KindDataset, keyservertest.Policy("alice"))
	deleted := s.Deposit(t, s.alice, "deleted", manifest.KindDataset, keyservertest.Policy("alice"))
	kept := s.Deposit(t, s.alice, "kept", manifest.KindDataset, keyservertest.Policy("alice"))
	s.Stop(t)
	keys := map[string][]byte{}
	for _, v := range []keyservertest.Volume{revoked, deleted, kept} {
		keys[v.ID] = sealedKey(t, s.Layout.Keys, v.ID)
	}
	record := sealedRecord(t, s.Layout.Store, "secrets", deleted.ID)
	if pieces(t, s.Layout.Keys, keys[revoked.ID]) == 0 || pieces(t, s.Layout.Store, record) == 0 {
		t.Fatal("control: the files hold nothing before either")
	}
	s.Run(t)
	alice := s.Client(t, s.alice)
	_, err := alice.Revoke(t.Context(), revoked.ID)
	if err := errors.Join(err, alice.Delete(t.Context(), deleted.ID)); err != nil {
		t.Fatal(err)
	}
	for range 5 { // asked again, nothing more is written of it
		if err := alice.Delete(t.Context(), deleted.ID); err != nil {
			t.Fatal(err)
		}
	}
	if log, err := os.ReadFile(s.Layout.Audit); err != nil || strings.Count(string(log), `"event":"key.destroy"`) != 2 {
		t.Errorf("2 keys were destroyed, the log has %d (%v)", strings.Count(string(log), `"event":"key.destroy"`), err)
	}
	keyserver.Scrub(t.Context(), s.Server)
	for _, when := range []string{"at work", "after a restart"} {
		for _, path := range []string{s.Layout.Keys, s.Layout.Store, s.Layout.Audit} {
			if n := pieces(t, path, keys[revoked.ID]) + pieces(t, path, keys[deleted.ID]) + pieces(t, path, record); n > 0 {
				t.Errorf("%s: %d pieces of what was destroyed are in %s", when, n, path)
			}
		}
		if pieces(t, s.Layout.Keys, keys[kept.ID]) != 7 {
			t.Errorf("%s: control: another volume's key is gone", when)
		}
		s.Stop(t)
		s.Run(t)
	}
}

func listed(t *testing.T, c *keyclient.Client) (all []keyapi.SecretEntry) {
	t.Helper()
	for s, err := range c.Secrets(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// TestDelete forgets a volume: what it counted, what is listed, its name; and its
// id is used up.
func TestDelete(t *testing.T) {
	t.Parallel()
	c := &clock{}
	o, keys := lending(keyservertest.Options{Limits: keyserver.Limits{Secrets: 2, Deleted: 2}, Now: c.now})
	s := newSite(t, o)
	alice, bob := s.Client(t, s.alice), s.Client(t, s.bob)
	old := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	r := releaseOf(t, s, v)
	if err := bob.Delete(t.Context(), v.ID); !errors.Is(err, keyclient.ErrNotFound) || !keys.has(t, v.ID) {
		t.Errorf("somebody else deletes it: %v", err)
	}
	for range 2 { // whoever did not get the answer asks again
		if err := alice.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := bob.Delete(t.Context(), v.ID); !errors.Is(err, keyclient.ErrNotFound) {
		t.Errorf("somebody else learns of the deletion: %v", err)
	}
	if keys.has(t, v.ID) || !keys.has(t, old.ID) {
		t.Error("the key is there still, or another's is gone")
	}
	if got, err := s.Client(t, nil).Release(t.Context(), r); !errors.Is(err, keyclient.ErrPolicy) || len(got.Keys) > 0 ||
		!strings.Contains(err.Error(), "deleted by its owner") {
		t.Errorf("a job asks for it: %v", err)
	}
	if list := listed(t, alice); len(list) != 1 || list[0].SupersededBy != v.ID {
		t.Errorf("listed: %+v", list)
	}
	for name, client := range map[string]*keyclient.Client{"its owner": alice, "another": bob} {
		_, err := client.PutSecret(t.Context(), v.ID, v.Secret)
		if !errors.Is(err, keyclient.ErrConflict) || keys.has(t, v.ID) {
			t.Errorf("%s deposits the key again: %v", name, err)
		}
	}
	// There is room for a new one in its place, which supersedes nothing.
	again := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	if list := listed(t, alice); len(list) != 2 {
		t.Errorf("listed: %+v", list)
	}
	if err := alice.Delete(t.Context(), old.ID); err != nil {
		t.Error(err)
	}
	err := alice.Delete(t.Context(), again.ID)
	if err == nil || !strings.Contains(err.Error(), "2 deleted volumes") || !keys.has(t, again.ID) {
		t.Errorf("more tombstones than an account may have: %v", err)
	}
	if _, err := alice.Revoke(t.Context(), again.ID); err != nil || keys.has(t, again.ID) {
		t.Errorf("it can be revoked all the same: %v", err)
	}
	c.add(2*365*24*time.Hour + time.Hour)
	if _, err := keyserver.Purge(t.Context(), s.Server); err != nil {
		t.Fatal(err)
	}
	if n, err := keyserver.Records(t.Context(), s.Server); err != nil || n["deleted"] != 0 || n["secrets"] != 1 {
		t.Errorf("two years later: %v, %v", n, err)
	}
}

// TestDestroyedLater has the disk fail under the destruction: nothing is released
// any more from that moment on, and the key is destroyed when it can be.
func TestDestroyedLater(t *testing.T) {
	t.Parallel()
	o, keys := lending(keyservertest.Options{})
	s := newSite(t, o)
	alice := s.Client(t, s.alice)
	var volumes []keyservertest.Volume
	for _, name := range []string{"revoked", "deleted", "asked again"} {
		volumes = append(volumes, s.Deposit(t, s.alice, name, manifest.KindDataset, keyservertest.Policy("alice")))
	}
	r := releaseOf(t, s, volumes[0])
	keys.broken.Store(true)
	_, err := alice.Revoke(t.Context(), volumes[0].ID)
	for name, err := range map[string]error{"revoke": err, "delete": alice.Delete(t.Context(), volumes[1].ID),
		"ask again": alice.Delete(t.Context(), volumes[2].ID)} {
		if !errors.Is(err, keyclient.ErrUnavailable) || !strings.Contains(err.Error(), "not destroyed yet") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := s.Client(t, nil).Release(t.Context(), r); !errors.Is(err, keyclient.ErrPolicy) || len(got.Keys) > 0 {
		t.Errorf("released meanwhile: %v", err)
	}
	if !keys.has(t, volumes[0].ID) {
		t.Error("control: the key is gone")
	}
	keys.broken.Store(false)
	if err := alice.Delete(t.Context(), volumes[2].ID); err != nil || keys.has(t, volumes[2].ID) {
		t.Errorf("asked again: %v", err)
	}
	s.Stop(t)
	s.Run(t)
	if keys.has(t, volumes[0].ID) || keys.has(t, volumes[1].ID) {
		t.Error("a restarted service does not finish what was begun")
	}
	log, err := os.ReadFile(s.Layout.Audit)
	if err != nil || strings.Count(string(log), `"event":"key.destroy","outcome":"done"`) != 2 {
		t.Errorf("the log has %d lines that say so (%v)", strings.Count(string(log), "key.destroy"), err)
	}
}

// TestHalfDestroyed has the disk fail when the key is not given out any more: the
// service comes back to it.
func TestHalfDestroyed(t *testing.T) {
	t.Parallel()
	o, keys := lending(keyservertest.Options{})
	s := newSite(t, o)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	keys.half.Store(true)
	if _, err := s.Client(t, s.alice).Revoke(t.Context(), v.ID); !errors.Is(err, keyclient.ErrUnavailable) || keys.has(t, v.ID) {
		t.Errorf("revoke: %v", err)
	}
	if err := keyserver.FinishDestructions(t.Context(), s.Server); err == nil {
		t.Error("control: the disk works")
	}
	keys.half.Store(false)
	for range 2 {
		if err := keyserver.FinishDestructions(t.Context(), s.Server); err != nil || keys.wiped.Load() != 1 {
			t.Errorf("%d keys were destroyed in the end: %v", keys.wiped.Load(), err)
		}
	}
}

// TestOlderKeys puts an older file of keys back: what was destroyed since is
// destroyed again, what came since is refused with a reason, and comes back with
// the same deposit.
func TestOlderKeys(t *testing.T) {
	t.Parallel()
	o, keys := lending(keyservertest.Options{})
	s := newSite(t, o)
	alice := s.Client(t, s.alice)
	revoked := s.Deposit(t, s.alice, "revoked", manifest.KindDataset, keyservertest.Policy("alice"))
	deleted := s.Deposit(t, s.alice, "deleted", manifest.KindDataset, keyservertest.Policy("alice"))
	kept := s.Deposit(t, s.alice, "kept", manifest.KindDataset, keyservertest.Policy("alice"))
	s.Stop(t)
	older, err := os.ReadFile(s.Layout.Keys)
	if err != nil {
		t.Fatal(err)
	}
	s.Run(t)
	_, err = alice.Revoke(t.Context(), revoked.ID)
	if err := errors.Join(err, alice.Delete(t.Context(), deleted.ID)); err != nil {
		t.Fatal(err)
	}
	newer := s.Deposit(t, s.alice, "newer", manifest.KindDataset, keyservertest.Policy("alice"))
	r := releaseOf(t, s, newer)
	s.Stop(t)
	if err := os.WriteFile(s.Layout.Keys, older, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Run(t)
	if keys.has(t, revoked.ID) || keys.has(t, deleted.ID) || !keys.has(t, kept.ID) {
		t.Error("an older file of keys brings destroyed ones back, or loses others")
	}
	if _, err := s.Client(t, nil).Release(t.Context(), r); !errors.Is(err, keyclient.ErrNotFound) ||
		!strings.Contains(err.Error(), "older state") {
		t.Errorf("a key that the older file has not: %v", err)
	}
	if _, err := alice.PutSecret(t.Context(), newer.ID, newer.Secret); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Client(t, nil).Release(t.Context(), r); err != nil || !bytes.Equal(got.Keys[newer.ID].Key, newer.Key) {
		t.Errorf("deposited again: %v", err)
	}
}

// TestDepositsAndDeletions deposits and deletes at once: in the end there is a key
// exactly where there is a record.
func TestDepositsAndDeletions(t *testing.T) {
	t.Parallel()
	o, keys := lending(keyservertest.Options{})
	s := newSite(t, o)
	alice := s.Client(t, s.alice)
	for range 10 {
		v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
		var wg sync.WaitGroup
		for n := range 6 {
			wg.Go(func() {
				if n == 3 {
					if err := alice.Delete(t.Context(), v.ID); err != nil {
						t.Error(err)
					}
					return
				}
				if _, err := alice.PutSecret(t.Context(), v.ID, v.Secret); err != nil && !errors.Is(err, keyclient.ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if keys.has(t, v.ID) {
			t.Error("a deleted volume's key is there")
		}
	}
}

// TestRefusedDepositLeavesNoKey fills an account: the key of the one too many does
// not stay.
func TestRefusedDepositLeavesNoKey(t *testing.T) {
	t.Parallel()
	o, keys := lending(keyservertest.Options{Limits: keyserver.Limits{Secrets: 1}})
	s := newSite(t, o)
	var wg sync.WaitGroup
	ids := make([]string, 4)
	for n := range ids {
		v := keyservertest.NewVolume(t, "data", manifest.KindDataset, keyservertest.Policy("alice"))
		ids[n] = v.ID
		wg.Go(func() { _, _ = s.Client(t, s.alice).PutSecret(t.Context(), v.ID, v.Secret) })
	}
	wg.Wait()
	here := 0
	for _, id := range ids {
		if keys.has(t, id) {
			here++
		}
	}
	if here != 1 {
		t.Errorf("%d keys for 1 volume", here)
	}
}
