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
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

func TestFetch(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	out := filepath.Join(t.TempDir(), "out")
	if _, err := j.fetch(transfer.Local{}, out); !errors.Is(err, ErrNothing) {
		t.Errorf("before any node has begun: %v", err)
	} else if !strings.Contains(fault.Hint(err), "no log") || !strings.Contains(fault.Hint(err), "exit code 239") {
		t.Errorf("the hint is %q", fault.Hint(err))
	}
	check(t, os.WriteFile(j.rec.LogFile, nil, 0o600))
	if _, err := j.fetch(transfer.Local{}, out); !strings.Contains(fault.Hint(err), "log says how far it came: site:"+j.rec.LogFile) {
		t.Errorf("with a log, the hint is %q", fault.Hint(err))
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

// refusals are results that are not opened.
var refusals = map[string]struct {
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
}

// TestFetchRefuses changes one thing at a time on the site; nothing is opened.
func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range refusals {
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

// flip alters one bit of the byte at an offset.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	b[(at+len(b))%len(b)] ^= 1
	check(t, os.WriteFile(path, b, 0o600))
}

// TestFetchLargeNames: results whose list of names is larger than the caller bears are refused as such, sealed or indexed, and
// not called altered.
func TestFetchLargeNames(t *testing.T) {
	t.Parallel()
	for what, leave := range map[string]func(j *job){
		"sealed":  func(j *job) { j.write(j.newNode("cn1")) },
		"indexed": func(j *job) { j.indexed(j.newNode("cn1"), nil) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			j := newJob(t)
			leave(j)
			d := Deps{FS: transfer.Local{}, Identities: []age.Identity{j.owner}, Open: volume.OpenOptions{MaxIndex: 20}}
			nodes, err := Fetch(t.Context(), d, j.rec, t.TempDir())
			n := one(t, nodes, err)
			if !errors.Is(n.Err, volume.ErrLimit) || fault.ClassOf(n.Err) != fault.Usage || !strings.Contains(fault.Hint(n.Err), "--max-index") {
				t.Errorf("%v", n.Err)
			}
			d.Open.MaxIndex = 1 << 20
			if nodes, err = Fetch(t.Context(), d, j.rec, t.TempDir()); one(t, nodes, err).Err != nil {
				t.Errorf("with a larger one: %v", nodes[0].Err)
			}
		})
	}
}
