package noderun

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/version"
	"github.com/sealbatch/sealbatch/volume"
)

func (j *testJob) path(name string) string { return filepath.Join(j.dir, "nodes", testNode, name) }

// receipt verifies statement and receipt as results would.
func (j *testJob) receipt() manifest.Receipt {
	j.t.Helper()
	read := func(name string) string {
		b, err := os.ReadFile(j.path(name))
		check(j.t, err)
		return strings.TrimSpace(string(b))
	}
	pub, _ := j.service.Public().(ed25519.PublicKey)
	var st manifest.Statement
	check(j.t, manifest.VerifyJWS(manifest.TypeStatement, pub, read(jobdir.StatementName), &st))
	s, err := manifest.DecodeKey(st.S)
	check(j.t, err)
	var r manifest.Receipt
	check(j.t, manifest.VerifyJWS(manifest.TypeReceipt, s, read(jobdir.ReceiptName), &r))
	if r.Version != version.String() || strings.Contains(r.Version, "devel") {
		j.t.Errorf("the receipt is by version %q", r.Version)
	}
	if _, err := os.Stat(j.path(jobdir.OriginName)); err == nil {
		var o manifest.Origin
		check(j.t, manifest.VerifyJWS(manifest.TypeOrigin, s, read(jobdir.OriginName), &o))
		keys, err := os.ReadFile(j.path(jobdir.KeysName))
		check(j.t, err)
		if o.Keys != manifest.DigestOf(keys) || o.Run != j.m.Run || o.Node != testNode {
			j.t.Errorf("the origin statement is about something else: %+v", o)
		}
	}
	return r
}

// results opens the sealed results that the receipt vouches for.
func (j *testJob) results() map[string]string {
	j.t.Helper()
	out := j.receipt().Output
	f, err := os.Open(j.path(jobdir.SealedName))
	check(j.t, err)
	defer f.Close()
	key, err := volume.UnwrapKey(f, out.Size, j.identity)
	check(j.t, err)
	r, err := volume.OpenFile(f.Name(), key)
	check(j.t, err)
	defer r.Close()
	if !out.Sealed || manifest.Digest(r.Digest()) != out.Digest || r.ID().String() != out.VolumeID || r.Size() != out.Size {
		j.t.Errorf("the receipt vouches for another volume: %+v", out)
	}
	dir := filepath.Join(j.t.TempDir(), "opened")
	check(j.t, r.Extract(j.t.Context(), dir, volume.ExtractOptions{}))
	j.t.Cleanup(func() { check(j.t, volume.RemoveTree(dir)) }) // some of it is read-only
	return readTree(j.t, dir)
}

// recovered opens the output volume's cipher directory.
func (j *testJob) recovered() map[string]string {
	j.t.Helper()
	f, err := os.Open(j.path(jobdir.KeysName))
	check(j.t, err)
	defer f.Close()
	_, key, err := volume.ReadKey(f, j.identity)
	check(j.t, err)
	dir := filepath.Join(j.t.TempDir(), "opened")
	check(j.t, volume.ExtractCipherDir(j.t.Context(), j.path(jobdir.CipherDirName), key, dir, volume.ExtractOptions{}))
	return readTree(j.t, dir)
}

// openIndexed opens the cipher directory by the index that the receipt vouches for.
func (j *testJob) openIndexed() *volume.Reader {
	j.t.Helper()
	out := j.receipt().Output
	f, err := os.Open(j.path(jobdir.KeysName))
	check(j.t, err)
	defer f.Close()
	id, key, err := volume.ReadKey(f, j.identity)
	check(j.t, err)
	index, err := os.ReadFile(j.path(out.Index.File))
	check(j.t, err)
	r, err := volume.OpenIndexed(j.path(out.File), index, id, key)
	check(j.t, err)
	j.t.Cleanup(func() { check(j.t, r.Close()) })
	if manifest.Digest(r.Digest()) != out.Index.Digest || r.ID().String() != out.VolumeID || r.Unread() != out.Index.Unread {
		j.t.Errorf("the receipt vouches for another index: %+v", out.Index)
	}
	return r
}

func readNode(t *testing.T, r *volume.Reader, name string) string {
	t.Helper()
	node, ok := r.Lookup(0, name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	b := make([]byte, r.Attr(node).Size)
	if n, err := r.ReadAt(node, b, 0); n != len(b) {
		t.Fatalf("read %s: %d bytes, %v", name, n, err)
	}
	return string(b)
}

// missing fails the test if a file of the node's directory exists.
func (j *testJob) missing(names ...string) {
	j.t.Helper()
	for _, n := range names {
		if _, err := os.Lstat(j.path(n)); !os.IsNotExist(err) {
			j.t.Errorf("%s is still there (%v)", n, err)
		}
	}
}

func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	check(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	}))
	return out
}

// leftNothing checks that the run's own directory and processes are gone.
func (j *testJob) leftNothing() {
	j.t.Helper()
	if _, err := os.Lstat(j.self); !os.IsNotExist(err) {
		j.t.Errorf("the run's own directory is still there (%v)", err)
	}
	if n := processes(j.t, j.self); n != 0 {
		j.t.Errorf("%d processes are left", n)
	}
}

// leakedNothing checks that words stand neither in the job log nor, as names or
// content, in what lies on the shared storage; and that it would find them.
func (j *testJob) leakedNothing(words ...string) {
	j.t.Helper()
	nodes := filepath.Join(j.dir, "nodes")
	check(j.t, os.WriteFile(filepath.Join(nodes, "planted"), []byte("a planted word"), 0o600))
	seen := j.log.Bytes()
	for name, data := range readTree(j.t, nodes) {
		seen = append(append(seen, name...), data...)
	}
	if !bytes.Contains(seen, []byte("a planted word")) {
		j.t.Error("the search does not find what is there")
	}
	for _, w := range words {
		if bytes.Contains(seen, []byte(w)) {
			j.t.Errorf("%q leaked", w)
		}
	}
}
