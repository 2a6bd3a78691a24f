package keyservertest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
)

// NewSigner returns a new Ed25519 SSH key.
func NewSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// RandomHex returns n random bytes as hex: volume ids (16) and run names (16).
func RandomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Volume is a made-up volume, as deposited.
type Volume struct {
	ID     string
	Digest manifest.Digest
	Key    []byte
	Secret keyapi.Secret
}

// Policy permits user on the nodes cn[1-4] of the default cluster, from tier C on, for an hour.
func Policy(user string) manifest.Policy {
	return manifest.Policy{Users: []string{user}, Nodes: []string{"cn[1-4]"}, Clusters: []string{"testcluster"}, Tier: manifest.TierC,
		Expires: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
}

// NewVolume returns a made-up volume of that name; it is not deposited.
func NewVolume(t testing.TB, name string, kind manifest.Kind, p manifest.Policy) Volume {
	t.Helper()
	key := make([]byte, keyapi.SecretKeyLen)
	rand.Read(key) // never fails
	v := Volume{ID: RandomHex(16), Digest: manifest.DigestOf(key), Key: key}
	v.Secret = keyapi.Secret{Name: name, File: name, Kind: kind, Digest: v.Digest, Size: 4096, Key: bytes.Clone(key), Policy: p}
	return v
}

// Deposit makes up a volume and deposits it.
func (s *Service) Deposit(t testing.TB, owner ssh.Signer, name string, kind manifest.Kind, p manifest.Policy) Volume {
	t.Helper()
	v := NewVolume(t, name, kind, p)
	if _, err := s.Client(t, owner).PutSecret(t.Context(), v.ID, v.Secret); err != nil {
		t.Fatal(err)
	}
	return v
}

// Secrets returns all that the service tells an owner of their secrets.
func Secrets(t testing.TB, c *keyclient.Client) (all []keyapi.SecretInfo) {
	t.Helper()
	for s, err := range c.Secrets(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		info, err := c.GetSecret(t.Context(), s.VolumeID)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, info)
	}
	return all
}

// Manifest returns a made-up manifest for a job on one node that uses the volumes,
// the first as its image; change, if not nil, may alter it.
func (s *Service) Manifest(t testing.TB, change func(*manifest.Manifest), volumes ...Volume) (manifest.Manifest, []byte) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	m := manifest.Manifest{
		Format: manifest.Format, Run: RandomHex(16), Created: now, Expires: now.Add(time.Hour),
		Service: manifest.Service{URL: s.URL, ID: s.ID, CA: string(s.CA), StatementKey: manifest.EncodeKey(s.StatementKey)},
		Attest:  manifest.Attest{Type: keyapi.EvidenceSlurm, Parameters: []byte("{}")},
		Tier:    manifest.TierC, User: "alice", Private: Private(t, nil, nil),
		JobDir: "/scratch/project_1/job", Nodes: 1, Recipients: []string{"age1test"},
	}
	for i, v := range volumes {
		kind := manifest.KindDataset
		if i == 0 {
			kind = manifest.KindImage
		}
		m.Volumes = append(m.Volumes, manifest.VolumeRef{Kind: kind, Name: fmt.Sprintf("volume%d", i),
			Path:     fmt.Sprintf("/scratch/project_1/v%d.sealed", i),
			VolumeID: v.ID, Digest: v.Digest, Checksum: v.Digest, Size: 4096})
	}
	if change != nil {
		change(&m)
	}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return m, b
}

// Sign returns the submitter's signature over a manifest's bytes.
func Sign(t testing.TB, signer ssh.Signer, namespace string, b []byte) []byte {
	t.Helper()
	sig, err := sshid.SignSSH(signer, namespace, b)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// Private makes up a private part and returns its digest, for manifests.
func Private(t testing.TB, args, flags []string) manifest.Digest {
	t.Helper()
	b, err := json.Marshal(manifest.NewPrivate(args, flags)) // valid or not
	if err != nil {
		t.Fatal(err)
	}
	d := manifest.DigestOf(b)
	privates.Store(d, b)
	return d
}

// PrivateOf returns the private part that Private made for a manifest.
func PrivateOf(t testing.TB, signed []byte) []byte {
	t.Helper()
	var m struct{ Private manifest.Digest }
	if err := json.Unmarshal(signed, &m); err != nil {
		return nil // a manifest that was spoilt
	}
	b, _ := privates.Load(m.Private)
	private, _ := b.([]byte)
	return private
}

// Register signs and registers a manifest and returns its digest.
func (s *Service) Register(t testing.TB, submitter ssh.Signer, b []byte) manifest.Digest {
	t.Helper()
	_, err := s.Client(t, submitter).RegisterManifest(t.Context(), b, Sign(t, submitter, manifest.NamespaceManifest, b), PrivateOf(t, b))
	if err != nil {
		t.Fatal(err)
	}
	return manifest.DigestOf(b)
}

// privates are the private parts that were made up, by digest.
var privates sync.Map
