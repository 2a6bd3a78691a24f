package results

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
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
		Run: strings.Repeat("a", 32), Manifest: manifest.DigestOf([]byte("manifest")), JobID: "41", JobDir: t.TempDir(), Nodes: 2,
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
		to := filepath.Join(dir, jobdir.CipherDirName, rel)
		check(j.t, os.MkdirAll(filepath.Dir(to), 0o700))
		switch h.Typeflag {
		case tar.TypeDir:
			check(j.t, os.MkdirAll(to, 0o700))
		case tar.TypeSymlink:
			check(j.t, os.Symlink(h.Linkname, to))
		case tar.TypeReg:
			b, err := io.ReadAll(tr)
			check(j.t, err)
			check(j.t, os.WriteFile(to, b, 0o400))
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

func TestFetch(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	out := filepath.Join(t.TempDir(), "out")
	if _, err := j.fetch(transfer.Local{}, out); !errors.Is(err, ErrNothing) {
		t.Errorf("before any node has begun: %v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made for nothing: %v", err)
	}
	j.write(j.newNode("cn1"))
	second := j.newNode("cn2")
	second.receipt.Exit, second.receipt.Reason = 3, "exit code 3"
	j.write(second)
	nodes, err := j.fetch(transfer.Local{}, out)
	if err != nil || len(nodes) != 2 {
		t.Fatalf("Fetch = %+v, %v", nodes, err)
	}
	for i, name := range []string{"cn1", "cn2"} {
		n := nodes[i]
		if n.Err != nil || n.Name != name || !n.Sealed || n.Dir != filepath.Join(out, name) || n.Tier != manifest.TierB2 {
			t.Errorf("%s: %+v", name, n)
		}
		opened(t, n.Dir, name)
	}
	if nodes[1].Receipt.Exit != 3 {
		t.Errorf("receipt of cn2: %+v", nodes[1].Receipt)
	}
}

// TestFetchAgain opens what is missing; what has been opened is not touched.
func TestFetchAgain(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	out := t.TempDir()
	j.write(j.newNode("cn1"))
	if _, err := j.fetch(transfer.Local{}, out); err != nil {
		t.Fatal(err)
	}
	check(t, os.WriteFile(filepath.Join(out, "cn1", "notes"), []byte("mine"), 0o600))
	j.write(j.newNode("cn2"))
	nodes, err := j.fetch(transfer.Local{}, out)
	if err != nil || len(nodes) != 2 {
		t.Fatalf("Fetch = %+v, %v", nodes, err)
	}
	if nodes[1].Err != nil {
		t.Errorf("cn2: %v", nodes[1].Err)
	}
	opened(t, filepath.Join(out, "cn2"), "cn2")
	if b, err := os.ReadFile(filepath.Join(out, "cn1", "notes")); err != nil || string(b) != "mine" {
		t.Errorf("what was added to cn1: %q, %v", b, err)
	}
	if n := nodes[0]; n.Err != nil || !n.Before || n.Dir != filepath.Join(out, "cn1") || nodes[1].Before {
		t.Errorf("cn1, which is there: %+v", n)
	}
}

// TestFetchBeforeOutputs tells why a job that a damaged volume stopped has none.
func TestFetchBeforeOutputs(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	n := j.newNode("cn1")
	n.receipt.Exit, n.receipt.Reason, n.receipt.Output, n.sealed = -1, "integrity", manifest.Output{}, nil
	dir := j.write(n)
	check(t, os.Remove(filepath.Join(dir, jobdir.OriginName)))
	check(t, os.Remove(filepath.Join(dir, jobdir.KeysName)))
	nodes, err := j.fetch(transfer.Local{}, t.TempDir())
	if err != nil || len(nodes) != 1 || nodes[0].Err != nil || nodes[0].Dir != "" || nodes[0].Receipt.Reason != "integrity" {
		t.Errorf("Fetch = %+v, %v", nodes, err)
	}
}

// TestFetchUnbegun: a node that has only attested has nothing to show.
func TestFetchUnbegun(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	dir := j.write(j.newNode("cn1"))
	check(t, os.Remove(filepath.Join(dir, jobdir.OriginName)))
	check(t, os.Remove(filepath.Join(dir, jobdir.ReceiptName)))
	j.write(j.newNode("cn2"))
	nodes, err := j.fetch(transfer.Local{}, t.TempDir())
	if err != nil || len(nodes) != 2 || !errors.Is(nodes[0].Err, ErrNothing) ||
		fault.ClassOf(nodes[0].Err) != fault.Job || nodes[1].Err != nil {
		t.Errorf("Fetch = %+v, %v", nodes, err)
	}
}

func TestRecover(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	j.killed(j.newNode("cn1"))
	unsealed := j.newNode("cn2") // has a receipt that says: not sealed
	receipt := *unsealed.receipt
	receipt.Reason, receipt.Output = "sealing", manifest.Output{File: jobdir.CipherDirName,
		VolumeID: unsealed.origin.VolumeID, Until: "scratch"}
	dir := j.killed(unsealed)
	jws, err := manifest.SignJWS(manifest.TypeReceipt, unsealed.key, receipt)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, jobdir.ReceiptName), []byte(jws), 0o600))
	out := t.TempDir()
	nodes, err := j.fetch(transfer.Local{}, out)
	if err != nil || len(nodes) != 2 {
		t.Fatalf("Fetch = %+v, %v", nodes, err)
	}
	for i, name := range []string{"cn1", "cn2"} {
		if nodes[i].Err != nil || nodes[i].Sealed {
			t.Errorf("%s: %+v", name, nodes[i])
		}
		opened(t, filepath.Join(out, name), name)
	}
	if nodes[0].Receipt != nil || nodes[1].Receipt == nil {
		t.Errorf("receipts: %v, %v", nodes[0].Receipt, nodes[1].Receipt)
	}
}

// TestFetchRefuses changes one thing at a time on the site; nothing is opened.
func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	flip := func(t *testing.T, path string, at int) {
		t.Helper()
		b, err := os.ReadFile(path)
		check(t, err)
		b[(at+len(b))%len(b)] ^= 1
		check(t, os.WriteFile(path, b, 0o600))
	}
	for name, c := range map[string]struct {
		want string
		code fault.Class
		do   func(t *testing.T, j *job, n *node)
	}{
		"sealed file altered": {"altered after the job sealed them", fault.Integrity, func(t *testing.T, j *job, n *node) {
			flip(t, filepath.Join(j.write(n), sealedFile), 2000)
		}},
		"sealed file cut": {"that the job signed", fault.Integrity, func(t *testing.T, j *job, n *node) {
			check(t, os.Truncate(filepath.Join(j.write(n), sealedFile), int64(len(n.sealed)-512)))
		}},
		"sealed file lengthened": {"that the job signed", fault.Integrity, func(t *testing.T, j *job, n *node) {
			n.sealed = append(n.sealed, 0)
			j.write(n)
		}},
		"sealed file replaced by another of the owner's": {"not those that the job signed", fault.Integrity, func(t *testing.T, j *job, n *node) {
			n.sealed = j.newNode("cn1").sealed
			j.write(n)
		}},
		"sealed file is gone": {"no such file", fault.Integrity, func(t *testing.T, j *job, n *node) {
			check(t, os.Remove(filepath.Join(j.write(n), sealedFile)))
		}},
		"receipt names a file elsewhere": {"receipt names the file", fault.Integrity, func(t *testing.T, j *job, n *node) {
			n.receipt.Output.File = "../../../" + sealedFile
			j.write(n)
		}},
		"receipt names an absolute file": {"receipt names the file", fault.Integrity, func(t *testing.T, j *job, n *node) {
			n.receipt.Output.File = "/etc/passwd"
			j.write(n)
		}},
		"statement by another key": {"signature does not hold", fault.Integrity, func(t *testing.T, j *job, n *node) {
			j.service = newKey(t)
			j.write(n)
		}},
		"another job's results": {"submitted job", fault.Integrity, func(t *testing.T, j *job, n *node) {
			n.statement.Job.ID, n.origin.Job.ID, n.receipt.Job.ID = 40, 40, 40
			j.write(n)
		}},
		"a signed file too large to be one": {"larger than", fault.Other, func(t *testing.T, j *job, n *node) {
			check(t, os.Truncate(filepath.Join(j.write(n), jobdir.ReceiptName), maxSmall+1))
		}},
		"killed, other wrapped keys": {"not those that the node signed", fault.Integrity, func(t *testing.T, j *job, n *node) {
			n.keys = j.newNode("cn1").keys
			j.killed(n)
		}},
		"killed, keys of another volume": {"another volume", fault.Integrity, func(t *testing.T, j *job, n *node) {
			n.origin.VolumeID = strings.Repeat("0", 32)
			j.killed(n)
		}},
		"killed, keys are missing": {"keys.age is missing", fault.Integrity, func(t *testing.T, j *job, n *node) {
			check(t, os.Remove(filepath.Join(j.killed(n), jobdir.KeysName)))
		}},
		"killed, working volume is gone": {"working volume is gone", fault.Integrity, func(t *testing.T, j *job, n *node) {
			check(t, os.RemoveAll(filepath.Join(j.killed(n), jobdir.CipherDirName)))
		}},
		"receipt cut short": {"receipt: ", fault.Integrity, func(t *testing.T, j *job, n *node) {
			check(t, os.Truncate(filepath.Join(j.write(n), jobdir.ReceiptName), 100))
		}},
		"sealed for somebody else": {"none of the identities", fault.Other, func(t *testing.T, j *job, n *node) {
			j.write(n)
			other, err := age.GenerateX25519Identity()
			check(t, err)
			j.owner = other
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t)
			c.do(t, j, j.newNode("cn1"))
			out := t.TempDir()
			nodes, err := j.fetch(transfer.Local{}, out)
			if err != nil || len(nodes) != 1 {
				t.Fatalf("Fetch = %+v, %v", nodes, err)
			}
			if n := nodes[0]; n.Err == nil || n.Dir != "" {
				t.Errorf("opened: %+v", n)
			} else if fault.ClassOf(n.Err) != c.code || !(strings.Contains(n.Err.Error(), c.want) ||
				c.want == "integrity" && errors.Is(n.Err, volume.ErrIntegrity)) {
				t.Errorf("error %q, class %s; want %q, %d", n.Err, fault.ClassOf(n.Err), c.want, c.code)
			}
			left, err := os.ReadDir(out)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
