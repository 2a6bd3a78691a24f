package jobdir

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// signed is one node's account of a job before it is signed, and the keys.
type signed struct {
	service, node ed25519.PrivateKey
	statement     manifest.Statement
	origin        manifest.Origin
	receipt       *manifest.Receipt
	keys          []byte
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func encoded(k ed25519.PrivateKey) string {
	return manifest.EncodeKey(k.Public().(ed25519.PublicKey))
}

// genuine is what a job that went well leaves, and what is expected of it.
func genuine(t *testing.T) (Expected, signed) {
	t.Helper()
	s := signed{service: newKey(t), node: newKey(t), keys: []byte("wrapped")}
	run := strings.Repeat("a", 32)
	rec := Expected{Run: run, JobID: "41", Manifest: manifest.DigestOf([]byte(run)), Tier: manifest.TierB2,
		Service: "keys.example.org", StatementKey: encoded(s.service)}
	job := manifest.Job{Cluster: "c", ID: 41, ArrayTask: -1}
	s.statement = manifest.Statement{Service: rec.Service, Manifest: rec.Manifest, Job: job, Node: "cn1", UID: 1000,
		User: "alice", Tier: manifest.TierB2, Attestor: "slurm", S: encoded(s.node), Issued: time.Unix(1700000000, 0).UTC()}
	s.origin = manifest.Origin{Run: rec.Run, Manifest: rec.Manifest, Job: job, Node: "cn1", VolumeID: strings.Repeat("1", 32),
		Keys: manifest.DigestOf(s.keys)}
	s.receipt = &manifest.Receipt{Run: rec.Run, Manifest: rec.Manifest, Job: job, Node: "cn1", Tier: manifest.TierB2, Reason: "completed",
		Output: manifest.Output{Sealed: true, File: "results.sealed", VolumeID: strings.Repeat("2", 32)}}
	return rec, s
}

func jws(t *testing.T, typ string, k ed25519.PrivateKey, v any) string {
	t.Helper()
	out, err := manifest.SignJWS(typ, k, v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s signed) files(t *testing.T) Files {
	t.Helper()
	f := Files{
		Statement: jws(t, manifest.TypeStatement, s.service, s.statement), Origin: jws(t, manifest.TypeOrigin, s.node, s.origin),
		Keys: s.keys,
	}
	if s.receipt != nil {
		f.Receipt = jws(t, manifest.TypeReceipt, s.node, s.receipt)
	}
	return f
}

func TestCheck(t *testing.T) {
	t.Parallel()
	rec, s := genuine(t)
	v, err := Check(rec, "cn1", s.files(t))
	if err != nil || v.Node != "cn1" || v.Receipt == nil || !v.Receipt.Output.Sealed || v.Statement.Tier != manifest.TierB2 {
		t.Errorf("a genuine job: %+v, %v", v, err)
	}
	for name, change := range map[string]func(*Expected, *signed){
		"more assurance than asked":     func(_ *Expected, s *signed) { s.statement.Tier = manifest.TierA },
		"submitted by hand":             func(r *Expected, _ *signed) { r.JobID = "" },
		"killed: no receipt":            func(_ *Expected, s *signed) { s.receipt = nil },
		"not sealed, with its own keys": func(_ *Expected, s *signed) { s.receipt.Output.Sealed = false },
		"sealed, wrapped keys are gone": func(_ *Expected, s *signed) { s.keys = nil },
	} {
		rec, s := genuine(t)
		change(&rec, &s)
		if _, err := Check(rec, "cn1", s.files(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCheckRestart accepts the directory of a restarted job, and only its own.
func TestCheckRestart(t *testing.T) {
	t.Parallel()
	rec, s := genuine(t)
	job := s.statement.Job
	job.Restart = 2
	s.statement.Job, s.origin.Job, s.receipt.Job = job, job, job
	if _, err := Check(rec, "cn1.r2", s.files(t)); err != nil {
		t.Errorf("restart 2 in cn1.r2: %v", err)
	}
	for _, dir := range []string{"cn1.r1", "cn1.r", "cn2.r2", "cn1.r02", "cn1.r2.r2"} {
		if _, err := Check(rec, dir, s.files(t)); !errors.Is(err, ErrNotOurs) {
			t.Errorf("restart 2 in %s: %v", dir, err)
		}
	}
}

// TestCheckBeforeOutputs is a job that was stopped by a damaged volume: it has
// a receipt, but never had anything to write to.
func TestCheckBeforeOutputs(t *testing.T) {
	t.Parallel()
	rec, s := genuine(t)
	s.receipt.Reason, s.receipt.Exit, s.receipt.Output = "integrity", -1, manifest.Output{}
	f := s.files(t)
	f.Origin, f.Keys = "", nil
	v, err := Check(rec, "cn1", f)
	if err != nil || v.Receipt == nil || v.Receipt.Reason != "integrity" {
		t.Errorf("Check = %+v, %v", v, err)
	}
	// An origin statement that should be there cannot be left out.
	_, s = genuine(t)
	f = s.files(t)
	f.Origin = ""
	rec.StatementKey = encoded(s.service)
	if _, err := Check(rec, "cn1", f); err == nil {
		t.Error("sealed results without an origin statement pass")
	}
}

// TestCheckRefuses alters one thing at a time.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		want   error
		change func(*testing.T, *Expected, *signed, *Files)
	}{
		"statement of another service's key": {manifest.ErrSignature, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			f.Statement = jws(t, manifest.TypeStatement, newKey(t), s.statement)
		}},
		"statement signed by the node itself": {manifest.ErrSignature, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			f.Statement = jws(t, manifest.TypeStatement, s.node, s.statement)
		}},
		"statement of another type": {manifest.ErrSignature, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			f.Statement = jws(t, manifest.TypeAuditHead, s.service, s.statement)
		}},
		"no statement": {manifest.ErrInvalid, func(_ *testing.T, _ *Expected, _ *signed, f *Files) { f.Statement = "" }},
		"other service": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.statement.Service = "other"
			*f = s.files(t)
		}},
		"other manifest": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.statement.Manifest = manifest.DigestOf([]byte("x"))
			*f = s.files(t)
		}},
		"other job": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.statement.Job.ID, s.origin.Job.ID, s.receipt.Job.ID = 42, 42, 42
			*f = s.files(t)
		}},
		"other node": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.statement.Node, s.origin.Node, s.receipt.Node = "cn2", "cn2", "cn2"
			*f = s.files(t)
		}},
		"tier below the one asked for": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.statement.Tier = manifest.TierC
			*f = s.files(t)
		}},
		"key that is none": {manifest.ErrInvalid, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.statement.S = "x"
			*f = s.files(t)
		}},
		"recorded key that is none": {manifest.ErrInvalid, func(_ *testing.T, r *Expected, _ *signed, _ *Files) { r.StatementKey = "" }},
		"origin by another key": {manifest.ErrSignature, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			f.Origin = jws(t, manifest.TypeOrigin, newKey(t), s.origin)
		}},
		"origin by the service": {manifest.ErrSignature, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			f.Origin = jws(t, manifest.TypeOrigin, s.service, s.origin)
		}},
		"receipt for an origin": {manifest.ErrSignature, func(_ *testing.T, _ *Expected, _ *signed, f *Files) { f.Origin = f.Receipt }},
		"receipt by another key": {manifest.ErrSignature, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			f.Receipt = jws(t, manifest.TypeReceipt, newKey(t), s.receipt)
		}},
		"receipt cut": {manifest.ErrInvalid, func(_ *testing.T, _ *Expected, _ *signed, f *Files) { f.Receipt = f.Receipt[:40] }},
		"origin of another run": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.origin.Run = strings.Repeat("b", 32)
			*f = s.files(t)
		}},
		"origin of another restart": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.origin.Job.Restart = 1
			*f = s.files(t)
		}},
		"origin of another node": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.origin.Node = "cn2"
			*f = s.files(t)
		}},
		"receipt of another run": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.receipt.Run = strings.Repeat("b", 32)
			*f = s.files(t)
		}},
		"receipt of another manifest": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.receipt.Manifest = manifest.Digest{9}
			*f = s.files(t)
		}},
		"receipt of another cluster": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.receipt.Job.Cluster = "d"
			*f = s.files(t)
		}},
		"killed, other wrapped keys": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.receipt, s.keys = nil, []byte("x")
			*f = s.files(t)
		}},
		"killed, no wrapped keys": {ErrNoKeys, func(_ *testing.T, _ *Expected, _ *signed, f *Files) { f.Receipt, f.Keys = "", nil }},
		"unsealed, other wrapped keys": {ErrNotOurs, func(t *testing.T, _ *Expected, s *signed, f *Files) {
			s.receipt.Output.Sealed = false
			s.keys = []byte("x")
			*f = s.files(t)
		}},
		"killed before it had anything": {manifest.ErrInvalid,
			func(_ *testing.T, _ *Expected, _ *signed, f *Files) { f.Receipt, f.Origin = "", "" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec, s := genuine(t)
			f := s.files(t)
			c.change(t, &rec, &s, &f)
			v, err := Check(rec, "cn1", f)
			if !errors.Is(err, c.want) {
				t.Errorf("Check: %v, want %v", err, c.want)
			}
			if v.Receipt != nil {
				t.Error("a receipt is given although the check failed")
			}
		})
	}
}

func TestReadFiles(t *testing.T) {
	t.Parallel()
	content := map[string]string{StatementName: " st\n", OriginName: "or\n", KeysName: "raw\n"}
	f, err := ReadFiles(func(name string) ([]byte, error) {
		if s, ok := content[name]; ok {
			return []byte(s), nil
		}
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	})
	if err != nil || f.Statement != "st" || f.Origin != "or" || f.Receipt != "" || string(f.Keys) != "raw\n" {
		t.Errorf("ReadFiles = %+v, %v", f, err)
	}
	if _, err := ReadFiles(func(string) ([]byte, error) { return nil, fs.ErrPermission }); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("unreadable files: %v", err)
	}
}
