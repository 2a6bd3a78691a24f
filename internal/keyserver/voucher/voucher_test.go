package voucher_test

import (
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/attestortest"
	"github.com/sealbatch/sealbatch/internal/keyserver/voucher"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func sampleClaim(digest manifest.Digest) keyapi.Claim {
	return keyapi.Claim{Manifest: digest, Job: manifest.Job{Cluster: "puhti", ID: 7, ArrayTask: -1}, Node: "cn1"}
}

func sampleVoucher(service string, c keyapi.Claim, issued time.Time) keyapi.Voucher {
	d := keyapi.ClaimDigest(service, c)
	return keyapi.Voucher{Service: service, Claim: d[:], UID: 1000, User: "alice", Groups: []string{"project_1"},
		Node: c.Node, Job: c.Job, Account: "acc", Partition: "small", Issued: issued}
}

func newVerifier(t *testing.T) (voucher.Verifier, ed25519.PrivateKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return voucher.Verifier{Cluster: keyapi.Cluster{Name: "puhti", Tier: manifest.TierB2}, Key: pub}, priv
}

func newAttestor(v ...voucher.Verifier) (attest.Attestor, error) {
	return voucher.New(v...)(attest.Service{Now: time.Now})
}

func signVoucher(t testing.TB, typ string, key ed25519.PrivateKey, v keyapi.Voucher) keyapi.Evidence {
	t.Helper()
	jws, err := manifest.SignJWS(typ, key, v)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := keyapi.NewEvidence(keyapi.EvidenceSlurm, keyapi.SlurmPayload{Voucher: jws})
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

func TestSlurmAttestorConforms(t *testing.T) {
	t.Parallel()
	attestortest.TestAttestor(t, func(t *testing.T) attestortest.Subject {
		v, key := newVerifier(t)
		a, err := newAttestor(v)
		if err != nil {
			t.Fatal(err)
		}
		return attestortest.Subject{
			Attestor: a, Type: keyapi.EvidenceSlurm, Service: "svc#1", MaxTier: manifest.TierB2,
			Claim: sampleClaim(manifest.DigestOf(nil)),
			Prove: func(t testing.TB, service string, c keyapi.Claim) keyapi.Evidence {
				return signVoucher(t, manifest.TypeVoucher, key, sampleVoucher(service, c, time.Now()))
			},
		}
	})
}

// TestVoucherRefused holds what an enrolled verifier might say wrongly.
func TestVoucherRefused(t *testing.T) {
	t.Parallel()
	v, key := newVerifier(t)
	now := time.Now()
	a, err := voucher.New(v)(attest.Service{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	c := sampleClaim(manifest.DigestOf(nil))
	judge := func(ev keyapi.Evidence) error {
		_, err := a.Attest(t.Context(), "svc", c, ev)
		return err
	}
	for name, change := range map[string]func(*keyapi.Voucher){
		"": nil, "just old enough": func(v *keyapi.Voucher) { v.Issued = now.Add(-59 * time.Second) },
	} {
		w := sampleVoucher("svc", c, now)
		if change != nil {
			change(&w)
		}
		if err := judge(signVoucher(t, manifest.TypeVoucher, key, w)); err != nil {
			t.Errorf("good voucher %s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*keyapi.Voucher){
		"root":             func(v *keyapi.Voucher) { v.UID = 0 },
		"negative uid":     func(v *keyapi.Voucher) { v.UID = -1 },
		"nobody's uid":     func(v *keyapi.Voucher) { v.UID = 1<<32 - 1 },
		"root by name":     func(v *keyapi.Voucher) { v.User = "root" },
		"no user":          func(v *keyapi.Voucher) { v.User = "" },
		"hostile user":     func(v *keyapi.Voucher) { v.User = "a\nb" },
		"stale":            func(v *keyapi.Voucher) { v.Issued = now.Add(-61 * time.Second) },
		"from the future":  func(v *keyapi.Voucher) { v.Issued = now.Add(time.Hour) },
		"no time":          func(v *keyapi.Voucher) { v.Issued = time.Time{} },
		"other node":       func(v *keyapi.Voucher) { v.Node = "cn2" },
		"other job":        func(v *keyapi.Voucher) { v.Job.ID++ },
		"other array task": func(v *keyapi.Voucher) { v.Job.ArrayTask = 0 },
		"other restart":    func(v *keyapi.Voucher) { v.Job.Restart++ },
		"other cluster":    func(v *keyapi.Voucher) { v.Job.Cluster = "mahti" },
		"other service":    func(v *keyapi.Voucher) { v.Service = "other" },
		"short claim":      func(v *keyapi.Voucher) { v.Claim = v.Claim[:31] },
	} {
		w := sampleVoucher("svc", c, now)
		change(&w)
		if err := judge(signVoucher(t, manifest.TypeVoucher, key, w)); !errors.Is(err, attest.ErrEvidence) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, stranger := newVerifier(t)
	good := sampleVoucher("svc", c, now)
	if err := judge(signVoucher(t, manifest.TypeVoucher, stranger, good)); !errors.Is(err, attest.ErrEvidence) {
		t.Errorf("voucher by a stranger: %v", err)
	}
	if err := judge(signVoucher(t, manifest.TypeStatement, key, good)); !errors.Is(err, attest.ErrEvidence) {
		t.Errorf("voucher signed for another purpose: %v", err)
	}
}

func TestVerifierEnrolment(t *testing.T) {
	t.Parallel()
	good, _ := newVerifier(t)
	for name, change := range map[string]func(*voucher.Verifier){
		"tier above B2": func(v *voucher.Verifier) { v.Tier = manifest.TierB1 },
		"no tier":       func(v *voucher.Verifier) { v.Tier = 0 },
		"no key":        func(v *voucher.Verifier) { v.Key = nil },
		"no name":       func(v *voucher.Verifier) { v.Name = "" },
	} {
		v := good
		change(&v)
		if _, err := newAttestor(v); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := newAttestor(good, good); err == nil {
		t.Error("two verifiers for one cluster are accepted")
	}
}
