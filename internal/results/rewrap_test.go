package results

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// TestRewrap: what a job sealed, indexed, or left when it was killed, opens to a new key
// by what was kept of it, and nothing changes where it lies.
func TestRewrap(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	names := []string{"cn1", "cn2", "cn3"}
	sealed := j.write(j.newNode("cn1"))
	j.indexed(j.newNode("cn2"), nil)
	j.killed(j.newNode("cn3"))
	before, err := os.ReadFile(filepath.Join(sealed, sealedFile))
	check(t, err)
	young, err := age.GenerateX25519Identity()
	check(t, err)
	kept := map[string][]byte{}
	byNew := Deps{FS: transfer.Local{}, Identities: []age.Identity{young}, Rewrapped: func(id string) ([]byte, error) {
		if b, ok := kept[id]; ok {
			return b, nil
		}
		return nil, fs.ErrNotExist
	}}
	nodes, err := Fetch(t.Context(), byNew, j.rec, filepath.Join(t.TempDir(), "early"))
	check(t, err)
	for _, n := range nodes {
		if !errors.Is(n.Err, volume.ErrNoIdentity) || !strings.Contains(fault.Hint(n.Err), "[results] identity") {
			t.Errorf("%s, with the new key alone: %v", n.Name, n.Err)
		}
	}
	keep := func(id string, b []byte) error { kept[id] = b; return nil }
	if n, err := Rewrap(t.Context(), byNew, j.rec, []age.Recipient{young.Recipient()}, keep); !errors.Is(err, volume.ErrNoIdentity) || n != 0 {
		t.Errorf("by somebody who cannot open them: %d, %v", n, err)
	}
	old := Deps{FS: transfer.Local{}, Identities: []age.Identity{j.owner}}
	if n, err := Rewrap(t.Context(), old, j.rec, []age.Recipient{young.Recipient()}, keep); err != nil ||
		n < len(names) || len(kept) != len(names) {
		t.Fatalf("%d keys, %d kept, %v", n, len(kept), err)
	}
	nodes, err = Fetch(t.Context(), byNew, j.rec, filepath.Join(t.TempDir(), "out"))
	check(t, err)
	for i, n := range nodes {
		if n.Err != nil || n.Name != names[i] {
			t.Errorf("%s: %v", n.Name, n.Err)
			continue
		}
		opened(t, n.Dir, n.Name)
	}
	if b, err := os.ReadFile(filepath.Join(sealed, sealedFile)); err != nil || string(b) != string(before) {
		t.Errorf("the sealed results have changed: %v", err)
	}
	// A key of another volume is none of this one.
	ids := volumesOf(nodes)
	kept[ids[0]] = kept[ids[1]]
	nodes, err = Fetch(t.Context(), byNew, j.rec, filepath.Join(t.TempDir(), "wrong"))
	if err != nil || fault.ClassOf(nodes[0].Err) != fault.Integrity {
		t.Errorf("another volume's key: %v, %v", nodes[0].Err, err)
	}
}

func volumesOf(nodes []Node) (ids []string) {
	for _, n := range nodes {
		if n.Receipt != nil {
			ids = append(ids, n.Receipt.Output.VolumeID)
		}
	}
	return ids
}

// TestRewrapExchanged: who writes the storage cannot have another key kept than that of
// the job's own results, nor one that was kept before replaced by it.
func TestRewrapExchanged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		swap func(j *job, dir string, n *node)
		n    int // keys that are kept all the same
	}{
		"another sealed file of the owner's": {func(j *job, dir string, _ *node) {
			check(j.t, os.WriteFile(filepath.Join(dir, sealedFile), j.newNode("cn9").sealed, 0o600))
			check(j.t, os.Remove(filepath.Join(dir, jobdir.KeysName)))
		}, 0},
		"the same file with another key": {func(j *job, dir string, n *node) {
			check(j.t, os.WriteFile(filepath.Join(dir, sealedFile), withKeys(j.t, n.sealed, j.wrapped(n, j.anyKey())), 0o600))
			check(j.t, os.Remove(filepath.Join(dir, jobdir.KeysName)))
		}, 0},
		"keys.age for the owner's public key": {func(j *job, dir string, n *node) {
			check(j.t, os.WriteFile(filepath.Join(dir, jobdir.KeysName), j.wrapped(n, j.anyKey()), 0o600))
		}, 1},
		"keys.age, and the sealed results away": {func(j *job, dir string, n *node) {
			check(j.t, os.Remove(filepath.Join(dir, sealedFile)))
			check(j.t, os.WriteFile(filepath.Join(dir, jobdir.KeysName), j.wrapped(n, j.anyKey()), 0o600))
		}, 0},
		"keys.age of another volume": {func(j *job, dir string, _ *node) {
			check(j.t, os.WriteFile(filepath.Join(dir, jobdir.KeysName), j.newNode("cn9").keys, 0o600))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t)
			n := j.newNode("cn1")
			dir := j.write(n)
			j.write(j.newNode("cn2"))
			young, err := age.GenerateX25519Identity()
			check(t, err)
			kept := map[string][]byte{}
			rewrap := func() (int, error) {
				return Rewrap(t.Context(), Deps{FS: transfer.Local{}, Identities: []age.Identity{j.owner}}, j.rec,
					[]age.Recipient{young.Recipient()}, func(id string, b []byte) error { kept[id] = b; return nil })
			}
			c.swap(j, dir, n)
			if got, err := rewrap(); fault.ClassOf(err) != fault.Integrity && !errors.Is(err, fs.ErrNotExist) || got != c.n+1 || len(kept) != c.n+1 {
				t.Errorf("%d keys, %d kept, %v; want %d, the other node's among them, and an error", got, len(kept), err, c.n+1)
			}
			put := func() {
				check(t, os.WriteFile(filepath.Join(dir, sealedFile), n.sealed, 0o600))
				check(t, os.WriteFile(filepath.Join(dir, jobdir.KeysName), n.keys, 0o600))
			}
			put()
			if got, err := rewrap(); err != nil || got != 2 {
				t.Fatalf("with the job's own files: %d keys, %v", got, err)
			}
			c.swap(j, dir, n)
			if _, err := rewrap(); err == nil {
				t.Error("exchanged again, and nothing said")
			}
			put()
			nodes, err := Fetch(t.Context(), Deps{FS: transfer.Local{}, Identities: []age.Identity{young},
				Rewrapped: func(id string) ([]byte, error) { return kept[id], nil }}, j.rec, filepath.Join(t.TempDir(), "out"))
			check(t, err)
			for _, n := range nodes {
				if n.Err != nil {
					t.Errorf("%s, by what was kept: %v", n.Name, n.Err)
					continue
				}
				opened(t, n.Dir, n.Name)
			}
		})
	}
}

// anyKey is the key of a volume that is none of the job's.
func (j *job) anyKey() volume.Key {
	j.t.Helper()
	_, key, err := volume.ReadKey(bytes.NewReader(j.newNode("cn9").keys), j.owner)
	check(j.t, err)
	return key
}

// withKeys is a sealed file with another keys.age at its beginning: all behind it stays.
func withKeys(t *testing.T, sealed, keys []byte) []byte {
	t.Helper()
	h, err := tar.NewReader(bytes.NewReader(sealed)).Next()
	check(t, err)
	const block = 512
	room := (int(h.Size) + block - 1) / block * block
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h.Size = int64(len(keys))
	check(t, w.WriteHeader(h))
	_, err = w.Write(keys)
	check(t, err)
	if b.Len() > block+room {
		t.Fatalf("keys.age of %d bytes does not fit into %d", len(keys), room)
	}
	b.Write(make([]byte, block+room-b.Len()))
	return append(b.Bytes(), sealed[b.Len():]...)
}

// wrapped is a keys.age of n's volume as everybody can make it, who knows the owner's
// public key.
func (j *job) wrapped(n *node, key volume.Key) []byte {
	j.t.Helper()
	id, err := volume.ParseID(n.origin.VolumeID)
	check(j.t, err)
	var b bytes.Buffer
	check(j.t, volume.WrapKey(&b, id, key, j.owner.Recipient()))
	return b.Bytes()
}

// TestRewrapRefuses what the job did not sign.
func TestRewrapRefuses(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	n := j.newNode("cn1")
	dir := j.write(n)
	check(t, os.WriteFile(filepath.Join(dir, jobdir.KeysName), j.newNode("cn2").keys, 0o600))
	d := Deps{FS: transfer.Local{}, Identities: []age.Identity{j.owner}}
	_, err := Rewrap(t.Context(), d, j.rec, []age.Recipient{j.owner.Recipient()}, func(string, []byte) error { return nil })
	if fault.ClassOf(err) != fault.Integrity {
		t.Errorf("keys of another volume: %v", err)
	}
}
