package results

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// job is a job's directory on a site that is this machine, with its parties.
type job struct {
	t       *testing.T
	rec     submission.Record
	service ed25519.PrivateKey
	owner   *age.X25519Identity
}

// node is what one node leaves; its parts can be changed before write.
type node struct {
	key       ed25519.PrivateKey
	statement manifest.Statement
	origin    manifest.Origin
	receipt   *manifest.Receipt
	sealed    []byte // results.sealed
	keys      []byte // keys.age beside the cipher directory
}

const sealedFile = "results.sealed"

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func public(k ed25519.PrivateKey) string {
	return manifest.EncodeKey(k.Public().(ed25519.PublicKey))
}

func newJob(t *testing.T) *job {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	j := &job{t: t, service: newKey(t), owner: id}
	j.rec = submission.Record{
		Run: strings.Repeat("a", 32), Manifest: manifest.DigestOf([]byte("manifest")), JobID: "41", JobDir: t.TempDir(),
		LogFile: filepath.Join(t.TempDir(), "job.log"), Nodes: 2,
		Tier: manifest.TierB2, Service: manifest.Service{ID: "keys", StatementKey: public(j.service)}, Submitted: time.Now(),
	}
	if err := os.Mkdir(filepath.Join(j.rec.JobDir, "nodes"), 0o700); err != nil {
		t.Fatal(err)
	}
	return j
}

// newNode seals some results, as the supervisor does at the end of a good run.
func (j *job) newNode(name string) *node {
	j.t.Helper()
	tree := j.t.TempDir()
	check(j.t, os.WriteFile(filepath.Join(tree, "result"), []byte("of "+name), 0o640))
	check(j.t, os.Mkdir(filepath.Join(tree, "sub"), 0o750))
	check(j.t, os.Symlink("../result", filepath.Join(tree, "sub", "link")))
	return j.nodeOf(name, tree)
}

// nodeOf is newNode with the results in tree.
func (j *job) nodeOf(name, tree string) *node {
	j.t.Helper()
	var sealed, keys bytes.Buffer
	s, err := volume.Seal(j.t.Context(), &sealed, source.Dir(tree), volume.SealOptions{Recipients: []age.Recipient{j.owner.Recipient()}})
	check(j.t, err)
	check(j.t, volume.WrapKey(&keys, s.ID, s.Key, j.owner.Recipient()))
	n := &node{key: newKey(j.t), sealed: sealed.Bytes(), keys: keys.Bytes()}
	at := manifest.Job{Cluster: "c", ID: 41, ArrayTask: -1}
	n.statement = manifest.Statement{Service: "keys", Manifest: j.rec.Manifest, Job: at, Node: name, UID: 1000, User: "alice",
		Tier: manifest.TierB2, Attestor: "slurm", S: public(n.key), Issued: time.Now().UTC()}
	n.origin = manifest.Origin{Run: j.rec.Run, Manifest: j.rec.Manifest, Job: at, Node: name, VolumeID: s.ID.String(),
		Keys: manifest.DigestOf(n.keys)}
	n.receipt = &manifest.Receipt{Run: j.rec.Run, Manifest: j.rec.Manifest, Job: at, Node: name, Tier: manifest.TierB2, Reason: "completed",
		Output: manifest.Output{Sealed: true, File: sealedFile, VolumeID: s.ID.String(), Digest: manifest.Digest(s.Digest),
			Checksum: manifest.Digest(s.Checksum), Size: s.Size, Until: "scratch"}}
	return n
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write puts a node's files into the job's directory and returns where.
func (j *job) write(n *node) string {
	j.t.Helper()
	dir := filepath.Join(j.rec.JobDir, "nodes", n.statement.Node)
	check(j.t, os.Mkdir(dir, 0o700))
	put := func(name string, b []byte) { check(j.t, os.WriteFile(filepath.Join(dir, name), b, 0o600)) }
	sign := func(name, typ string, k ed25519.PrivateKey, v any) {
		jws, err := manifest.SignJWS(typ, k, v)
		check(j.t, err)
		put(name, []byte(jws+"\n"))
	}
	sign(jobdir.StatementName, manifest.TypeStatement, j.service, n.statement)
	sign(jobdir.OriginName, manifest.TypeOrigin, n.key, n.origin)
	if n.receipt != nil {
		sign(jobdir.ReceiptName, manifest.TypeReceipt, n.key, n.receipt)
	}
	put(jobdir.KeysName, n.keys)
	if n.sealed != nil {
		put(sealedFile, n.sealed)
	}
	return dir
}

// killed makes the node one that was killed before it could seal: the cipher
// directory is what the sealed volume holds below volume/.
func (j *job) killed(n *node) string {
	j.t.Helper()
	sealed := n.sealed
	n.sealed, n.receipt = nil, nil
	dir := j.write(n)
	root, err := os.OpenRoot(dir)
	check(j.t, err)
	defer root.Close()
	tr := tar.NewReader(bytes.NewReader(sealed))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		check(j.t, err)
		rel, ok := strings.CutPrefix(h.Name, "volume/")
		if !ok {
			continue
		}
		to := filepath.Join(jobdir.CipherDirName, rel) // perhaps longer than the system takes
		check(j.t, root.MkdirAll(filepath.Dir(to), 0o700))
		switch h.Typeflag {
		case tar.TypeDir:
			check(j.t, root.MkdirAll(to, 0o700))
		case tar.TypeSymlink:
			check(j.t, root.Symlink(h.Linkname, to))
		case tar.TypeReg:
			b, err := io.ReadAll(tr)
			check(j.t, err)
			check(j.t, root.WriteFile(to, b, 0o400))
		}
	}
}

func (j *job) fetch(fsys transfer.FS, dir string) ([]Node, error) {
	j.t.Helper()
	return Fetch(j.t.Context(), Deps{FS: fsys, Identities: []age.Identity{j.owner}}, j.rec, dir)
}

// recovering is fetch with Recover.
func (j *job) recovering(dir string) ([]Node, error) {
	j.t.Helper()
	return Fetch(j.t.Context(), Deps{FS: transfer.Local{}, Identities: []age.Identity{j.owner}, Recover: true}, j.rec, dir)
}

// opened checks that a directory holds a node's results and nothing else.
func opened(t *testing.T, dir, name string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "result"))
	if err != nil || string(b) != "of "+name {
		t.Errorf("%s/result = %q, %v", dir, b, err)
	}
	if l, err := os.Readlink(filepath.Join(dir, "sub", "link")); err != nil || l != "../result" {
		t.Errorf("%s/sub/link = %q, %v", dir, l, err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".fetch*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
