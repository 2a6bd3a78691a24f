package keyserver_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// edit changes a store's file as somebody does who has not the master key.
func edit(t *testing.T, path string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// kept returns the sealed values of a store's file, by bucket and key. The file
// may be in use.
func kept(t *testing.T, path string) map[string]map[string][]byte {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy.db")
	copyFile(t, path, copied)
	out := map[string]map[string][]byte{}
	edit(t, copied, func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			out[string(name)] = map[string][]byte{}
			return b.ForEach(func(k, v []byte) error {
				out[string(name)][string(k)] = bytes.Clone(v)
				return nil
			})
		})
	})
	return out
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// overwrite writes new over old, in place, wherever it stands in a file.
func overwrite(t *testing.T, path string, old, new []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(b, old) {
		t.Fatal("not there", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range b {
		if bytes.HasPrefix(b[i:], old) {
			if _, err := f.WriteAt(new, int64(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// secretsWithHistory returns a service with a volume whose key is revoked, a
// second one, and what its store held before the revocation.
func secretsWithHistory(t *testing.T) (s *site, revoked, other keyservertest.Volume, before map[string]map[string][]byte) {
	t.Helper()
	s = newSite(t, keyservertest.Options{})
	revoked = s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	other = s.Deposit(t, s.alice, "other", manifest.KindDataset, keyservertest.Policy("alice"))
	before = kept(t, s.Layout.Store)
	if _, err := s.Client(t, s.alice).Revoke(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	return s, revoked, other, before
}

// TestAlteredStore alters the store's file between two runs, each time without the
// master key. The service does not start on any of it, and names the record.
func TestAlteredStore(t *testing.T) {
	t.Parallel()
	type history struct {
		revoked, other keyservertest.Volume
		before         map[string]map[string][]byte
	}
	put := func(tx *bbolt.Tx, bucket, key string, v []byte) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), v)
	}
	for name, tc := range map[string]struct {
		alter func(tx *bbolt.Tx, h history) error
		says  string // "": it starts
	}{
		"control": {func(*bbolt.Tx, history) error { return nil }, ""},
		"an old record put back": {func(tx *bbolt.Tx, h history) error {
			return put(tx, "secrets", h.revoked.ID, h.before["secrets"][h.revoked.ID])
		}, "REVOKED"},
		"a bucket put back": {func(tx *bbolt.Tx, h history) error {
			err := tx.DeleteBucket([]byte("secrets"))
			for k, v := range h.before["secrets"] {
				err = errors.Join(err, put(tx, "secrets", k, v))
			}
			return err
		}, "REVOKED"},
		"a record removed": {func(tx *bbolt.Tx, h history) error {
			return tx.Bucket([]byte("secrets")).Delete([]byte(h.other.ID))
		}, "OTHER"},
		"a bucket removed": {func(tx *bbolt.Tx, _ history) error { return tx.DeleteBucket([]byte("counts")) }, `in bucket "counts"`},
		"a record added": {func(tx *bbolt.Tx, h history) error {
			return put(tx, "secrets", strings.Repeat("0", 32), h.before["secrets"][h.other.ID])
		}, "one of them"},
		"a bucket added":        {func(tx *bbolt.Tx, h history) error { return put(tx, "later", "k", []byte("x")) }, "one of them"},
		"an empty record added": {func(tx *bbolt.Tx, h history) error { return put(tx, "secrets", "k", nil) }, "one of them"},
		"two records exchanged": {func(tx *bbolt.Tx, h history) error {
			return errors.Join(put(tx, "secrets", h.revoked.ID, h.before["secrets"][h.other.ID]),
				put(tx, "secrets", h.other.ID, h.before["secrets"][h.revoked.ID]))
		}, `in bucket "secrets" was put back`},
		"a record moved to another bucket": {func(tx *bbolt.Tx, h history) error {
			return errors.Join(put(tx, "policies", h.other.ID, h.before["secrets"][h.other.ID]))
		}, `in bucket "policies" was put back`},
		"one byte": {func(tx *bbolt.Tx, h history) error {
			v := bytes.Clone(h.before["secrets"][h.other.ID])
			v[len(v)-1] ^= 1
			return put(tx, "secrets", h.other.ID, v)
		}, "OTHER"},
		"the identity removed": {func(tx *bbolt.Tx, _ history) error {
			return tx.Bucket([]byte("meta")).Delete([]byte("identity"))
		}, "the service's identity was removed"},
		"the canary removed": {func(tx *bbolt.Tx, _ history) error {
			return tx.Bucket([]byte("meta")).Delete([]byte("canary"))
		}, "canary is missing"},
		"the head put back": {func(tx *bbolt.Tx, h history) error {
			return put(tx, "meta", "audit-head", h.before["meta"]["audit-head"])
		}, "the log goes on after entry"},
		"the head removed": {func(tx *bbolt.Tx, _ history) error {
			return tx.Bucket([]byte("meta")).Delete([]byte("audit-head"))
		}, "the head of the log was removed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, revoked, other, before := secretsWithHistory(t)
			s.Stop(t)
			edit(t, s.Layout.Store, func(tx *bbolt.Tx) error { return tc.alter(tx, history{revoked, other, before}) })
			err := s.TryRun()
			says := strings.NewReplacer("REVOKED", revoked.ID, "OTHER", other.ID).Replace(tc.says)
			if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
				t.Errorf("start: %v, want %q", err, says)
			}
		})
	}
}

// TestStorePutBackByOneBatch has a service killed right after a revocation, and
// the store's file put back to what it was before. If the log is made to look as
// after a crash, too, the service cannot know; the head that the owner kept does.
func TestStorePutBackByOneBatch(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	old := filepath.Join(t.TempDir(), "old.db")
	copyFile(t, s.Layout.Store, old)
	p := keyservertest.Policy("nobody")
	if _, err := s.Client(t, s.alice).SetPolicy(t.Context(), v.ID, p); err != nil {
		t.Fatal(err)
	}
	s.Stop(t)
	verify := func(remembered ...keyapi.AuditHead) (audit.Row, error) {
		log, err := os.ReadFile(s.Layout.Audit)
		if err != nil {
			t.Fatal(err)
		}
		return audit.Verify(s.StatementKey, []io.Reader{bytes.NewReader(log)}, remembered...)
	}
	row, err := verify()
	if err != nil {
		t.Fatal(err)
	}
	kept := keyapi.AuditHead{Seq: row.Head.Seq, Hash: row.Head.Hash}
	copyFile(t, old, s.Layout.Store)
	if err := s.TryRun(); !errors.Is(err, audit.ErrRolledBack) {
		t.Errorf("start: %v", err)
	}
	log, err := os.ReadFile(s.Layout.Audit)
	if err == nil {
		err = os.WriteFile(s.Layout.Audit, log[:len(log)-1], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Run(t)
	s.Stop(t)
	if _, err := verify(); err != nil {
		t.Error(err)
	}
	if _, err := verify(kept); !errors.Is(err, audit.ErrHead) {
		t.Errorf("with the head that was kept: %v", err)
	}
}

// TestAlteredEarlier puts a record back that did not change in the current segment
// of the log: an earlier one names it, and without that it is found all the same.
func TestAlteredEarlier(t *testing.T) {
	t.Parallel()
	s, revoked, _, before := secretsWithHistory(t)
	if err := s.Server.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Stop(t)
	edit(t, s.Layout.Store, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("secrets")).Put([]byte(revoked.ID), before["secrets"][revoked.ID])
	})
	if err := s.TryRun(); !errors.Is(err, audit.ErrAltered) || !strings.Contains(err.Error(), revoked.ID) {
		t.Errorf("start: %v", err)
	}
	if err := os.Remove(strings.TrimSuffix(s.Layout.Audit, ".log") + "-000001.log"); err != nil {
		t.Fatal(err)
	}
	if err := s.TryRun(); !errors.Is(err, audit.ErrAltered) {
		t.Errorf("start without the earlier segment: %v", err)
	}
}

// TestAlteredWhileRunning writes an old value over the new one, of the same length,
// in the file of a running store: the next check finds it, releases stop, and audit
// log and /readyz say so.
func TestAlteredWhileRunning(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	p := keyservertest.Policy("alice")
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	old := kept(t, s.Layout.Store)["policies"][v.ID]
	p.Users = []string{"carol"}
	if _, err := s.Client(t, s.alice).SetPolicy(t.Context(), v.ID, p); err != nil {
		t.Fatal(err)
	}
	m, b := s.Manifest(t, func(m *manifest.Manifest) { m.User = "carol" }, v)
	r := keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.alice, b), Job: s.job(7), Node: "cn1",
		Attest: s.Attest("carol", 1000, nil, nil)}
	if _, err := s.Client(t, nil).Release(t.Context(), r); err != nil {
		t.Fatal("control:", err)
	}
	now := kept(t, s.Layout.Store)["policies"][v.ID]
	if len(now) != len(old) {
		t.Fatalf("%d bytes, %d before", len(now), len(old))
	}
	overwrite(t, s.Layout.Store, now, old)
	if err := s.Server.Rotate(t.Context()); !errors.Is(err, audit.ErrAltered) || !strings.Contains(err.Error(), v.ID) {
		t.Errorf("check: %v", err)
	}
	r.Job = s.job(8)
	if _, err := s.Client(t, nil).Release(t.Context(), r); err == nil || !strings.Contains(err.Error(), "nothing is released") {
		t.Errorf("release: %v", err)
	}
	s.Stop(t)
	log, err := os.ReadFile(s.Layout.Audit)
	if err != nil || !bytes.Contains(log, []byte(`"event":"records.check","outcome":"refused"`)) {
		t.Errorf("the log does not tell of it: %v", err)
	}
	if _, err := audit.Verify(s.StatementKey, []io.Reader{bytes.NewReader(log)}); err != nil {
		t.Error(err)
	}
	if err := s.TryRun(); !errors.Is(err, audit.ErrAltered) {
		t.Errorf("start: %v", err)
	}
}

// TestAlteredAndChanged puts an old value back that the service changes before it
// looks: the change does not hide it.
func TestAlteredAndChanged(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	p := keyservertest.Policy("alice")
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	old := kept(t, s.Layout.Store)["policies"][v.ID]
	set := func(user string) {
		p.Users = []string{user}
		if _, err := s.Client(t, s.alice).SetPolicy(t.Context(), v.ID, p); err != nil {
			t.Fatal(err)
		}
	}
	set("carol")
	if err := s.Server.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	overwrite(t, s.Layout.Store, kept(t, s.Layout.Store)["policies"][v.ID], old)
	set("david")
	if err := s.Server.Rotate(t.Context()); !errors.Is(err, audit.ErrAltered) || !strings.Contains(err.Error(), v.ID) {
		t.Errorf("check: %v", err)
	}
	s.Stop(t)
	if err := s.TryRun(); !errors.Is(err, audit.ErrAltered) {
		t.Errorf("start: %v", err)
	}
}
