package results

import (
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
	if n, err := Rewrap(t.Context(), old, j.rec, []age.Recipient{young.Recipient()}, keep); err != nil || n < len(names) || len(kept) != len(names) {
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
