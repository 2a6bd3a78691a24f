package keyserver_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func TestStrictRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	id := keyservertest.RandomHex(16)
	good := keyservertest.NewVolume(t, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	encode := func(change func(*keyapi.Secret)) []byte {
		sec := good.Secret
		change(&sec)
		b, err := json.Marshal(sec)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	policy := func(from, to string) []byte {
		before, after, _ := strings.Cut(string(encode(func(*keyapi.Secret) {})), `"policy":`)
		return []byte(before + `"policy":` + strings.Replace(after, from, to, 1))
	}
	for _, tc := range []struct {
		name, path string
		body       []byte
		want       int
	}{
		{"control", "/v1/secrets/" + id, encode(func(*keyapi.Secret) {}), 200},
		{"id no hex", "/v1/secrets/zz", encode(func(*keyapi.Secret) {}), 400},
		{"id of another kind", "/v1/secrets/" + strings.ToUpper(good.ID) + "F", encode(func(*keyapi.Secret) {}), 400},
		{"unknown field", "/v1/secrets/" + id, []byte(`{"x":1}`), 400},
		{"trailing bytes", "/v1/secrets/" + id, append(encode(func(*keyapi.Secret) {}), "{}"...), 400},
		{"short key", "/v1/secrets/" + id, encode(func(x *keyapi.Secret) { x.Key = x.Key[:31] }), 400},
		{"name with slash", "/v1/secrets/" + id, encode(func(x *keyapi.Secret) { x.Name = "a/b" }), 400},
		{"name with C1 control", "/v1/secrets/" + id, encode(func(x *keyapi.Secret) { x.Name = "a\u009b2Jb" }), 400},
		{"name that turns round", "/v1/secrets/" + id, encode(func(x *keyapi.Secret) { x.Name = "a\u202eb" }), 400},
		{"name with a mark of direction", "/v1/secrets/" + id, encode(func(x *keyapi.Secret) { x.Name = "a\u200fb" }), 400},
		{"name with newline", "/v1/secrets/" + id, encode(func(x *keyapi.Secret) { x.Name = "a\nb" }), 400},
		{"no digest", "/v1/secrets/" + id, encode(func(x *keyapi.Secret) { x.Digest = manifest.Digest{} }), 400},
		{"odd kind", "/v1/secrets/" + id, encode(func(x *keyapi.Secret) { x.Kind = "other" }), 400},
		{"no size", "/v1/secrets/" + id, encode(func(x *keyapi.Secret) { x.Size = 0 }), 400},
		{"policy with an unknown field", "/v1/secrets/" + id, policy(`{`, `{"everyone":true,`), 400},
		{"policy for nobody", "/v1/secrets/" + id, policy(`"alice"`, ``), 400},
		{"policy of no cluster", "/v1/secrets/" + id, policy(`,"clusters":["testcluster"]`, ``), 400},
		{"policy of no cluster, any evidence of Slurm's", "/v1/secrets/" + id, policy(`,"clusters":["testcluster"]`, `,"evidence":"slurm"`), 400},
		{"policy of an odd evidence", "/v1/secrets/" + id, policy(`,"clusters":["testcluster"]`, `,"evidence":"a b"`), 400},
		{"policy with a bad host list", "/v1/secrets/" + id, policy(`cn[1-4]`, `cn[1-`), 400},
		{"policy with a long host list", "/v1/secrets/" + id, policy(`cn[1-4]`, `cn[1`+strings.Repeat(",3", 64)+`]`), 400},
		{"policy with many host lists", "/v1/secrets/" + id, policy(`"cn[1-4]"`, `"cn1"`+strings.Repeat(`,"gn[1-2]"`, 64)), 400},
		{"too large", "/v1/secrets/" + id, bytes.Repeat([]byte(" "), keyapi.MaxBody+1), 400},
		{"no such call", "/v1/nothing", nil, 404},
		{"a call of HPCS's", "/api/client/register", nil, 404},
	} {
		status, e := s.send(t, rawRequest{method: "PUT", path: tc.path, namespace: keyapi.Namespace, service: s.ID, at: time.Now(),
			nonce: keyservertest.RandomHex(16), signer: s.alice, body: tc.body})
		if status != tc.want {
			t.Errorf("%s: status %d, %+v; want %d", tc.name, status, e, tc.want)
		}
		if strings.Contains(e.Message, base64.StdEncoding.EncodeToString(good.Key)[:12]) {
			t.Errorf("%s: the message repeats the key", tc.name)
		}
		if ofHPCS := strings.HasPrefix(tc.path, "/api/"); strings.Contains(e.Message, "HPCS") != ofHPCS {
			t.Errorf("%s: the message is %q", tc.name, e.Message)
		}
	}
}

func TestSecretsAreTheirOwners(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	alice, bob := s.Client(t, s.alice), s.Client(t, s.bob)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	ctx := t.Context()
	want := func(name string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v; want %v", name, err, want)
		}
	}
	_, err := bob.PutSecret(ctx, v.ID, v.Secret)
	want("bob deposits alice's volume", err, keyclient.ErrConflict)
	_, err = bob.GetSecret(ctx, v.ID)
	want("bob looks at it", err, keyclient.ErrNotFound)
	_, err = bob.SetPolicy(ctx, v.ID, keyservertest.Policy("bob"))
	want("bob sets its policy", err, keyclient.ErrNotFound)
	_, err = bob.Revoke(ctx, v.ID)
	want("bob revokes it", err, keyclient.ErrNotFound)
	if l := keyservertest.Secrets(t, bob); len(l) != 0 {
		t.Errorf("bob sees %d secrets", len(l))
	}
	again := v.Secret
	again.Policy = keyservertest.Policy("bob")
	info, err := alice.PutSecret(ctx, v.ID, again)
	want("the same again, with another policy", err, nil)
	if !slices.Equal(info.Policy.Users, []string{"bob"}) || info.Path != keyapi.SecretPath(v.ID) || info.Revoked {
		t.Errorf("after the second deposit: %+v", info)
	}
	other := v.Secret
	other.Key = bytes.Repeat([]byte{1}, 32)
	_, err = alice.PutSecret(ctx, v.ID, other)
	want("another key", err, keyclient.ErrConflict)
	other = v.Secret
	other.Digest = manifest.DigestOf(nil)
	_, err = alice.PutSecret(ctx, v.ID, other)
	want("another digest", err, keyclient.ErrConflict)

	newer := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	image := s.Deposit(t, s.alice, "data", manifest.KindImage, keyservertest.Policy("alice"))
	s.Deposit(t, s.bob, "data", manifest.KindDataset, keyservertest.Policy("bob"))
	list := keyservertest.Secrets(t, alice)
	if len(list) != 3 {
		t.Fatalf("alice sees %d secrets", len(list))
	}
	for _, i := range list {
		if wantBy := map[string]string{v.ID: newer.ID}[i.VolumeID]; i.SupersededBy != wantBy {
			t.Errorf("volume %s is superseded by %q, want %q (image: %s)", i.VolumeID, i.SupersededBy, wantBy, image.ID)
		}
	}
	_, err = alice.Revoke(ctx, v.ID)
	want("revoke", err, nil)
	_, err = alice.PutSecret(ctx, v.ID, v.Secret)
	want("the deposit of a key that was destroyed", err, keyclient.ErrConflict)
}

// TestClaims sends claims that an honest client does not make.
func TestClaims(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	_, b := s.Manifest(t, func(m *manifest.Manifest) { m.Nodes = 4 }, v)
	digest := s.Register(t, s.alice, b)
	client := s.Client(t, nil)
	spent, err := client.Nonce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		before func(*keyapi.Claim)   // before it is proved
		after  func(*keyapi.Release) // afterwards
		want   string                // code, "" for success
	}{
		{"the control's nonce, without evidence for it", func(c *keyapi.Claim) { c.Nonce = spent.Nonce },
			func(r *keyapi.Release) { r.Evidence.Payload = []byte(`{"voucher":"e30.e30.e30"}`) }, keyapi.CodeAttestation}, // and does not use it up
		{"control", func(c *keyapi.Claim) { c.Nonce = spent.Nonce }, nil, ""},
		{"spent nonce", func(c *keyapi.Claim) { c.Nonce, c.Node = spent.Nonce, "cn2" }, nil, keyapi.CodeAttestation},
		{"made-up nonce", func(c *keyapi.Claim) { c.Nonce = bytes.Repeat([]byte{1}, 32) }, nil, keyapi.CodeAttestation},
		{"no nonce", func(c *keyapi.Claim) { c.Nonce = nil }, nil, keyapi.CodeBadRequest},
		{"another's E", nil, func(r *keyapi.Release) { r.Claim.E = newE(t) }, keyapi.CodeAttestation},
		{"another's S", nil, func(r *keyapi.Release) { r.Claim.S = bytes.Repeat([]byte{1}, 32) }, keyapi.CodeAttestation},
		{"no proof", nil, func(r *keyapi.Release) { r.Proof = nil }, keyapi.CodeAttestation},
		{"E that is no key", func(c *keyapi.Claim) { c.E, c.Node = bytes.Repeat([]byte{0xff}, keyapi.PublicKeyE), "cn3" },
			nil, keyapi.CodeBadRequest},
		{"short E", func(c *keyapi.Claim) { c.E = c.E[1:] }, nil, keyapi.CodeBadRequest},
		{"job 0", func(c *keyapi.Claim) { c.Job.ID = 0 }, nil, keyapi.CodeBadRequest},
		{"list of nodes", func(c *keyapi.Claim) { c.Node = "cn[1-2]" }, nil, keyapi.CodeBadRequest},
		{"unknown evidence", nil, func(r *keyapi.Release) { r.Evidence.Type = "tpm" }, keyapi.CodeAttestation},
		{"no evidence", nil, func(r *keyapi.Release) { r.Evidence.Payload = []byte(`{"voucher":""}`) }, keyapi.CodeAttestation},
		{"the service's own statement as voucher", nil,
			func(r *keyapi.Release) { r.Evidence.Payload = []byte(`{"voucher":"e30.e30.e30"}`) }, keyapi.CodeAttestation},
	} {
		pub, priv, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		n, err := client.Nonce(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := keyapi.Claim{Manifest: digest, Job: manifest.Job{Cluster: s.Cluster, ID: 7, ArrayTask: -1}, Node: "cn1",
			Nonce: n.Nonce, E: newE(t), S: pub}
		if tc.before != nil {
			tc.before(&c)
		}
		ev, err := s.Attest("alice", 1000, nil, nil)(t.Context(), s.ID, c)
		if err != nil {
			t.Fatal(err)
		}
		d := keyapi.ClaimDigest(s.ID, c)
		r := keyapi.Release{Claim: c, Evidence: ev, Proof: ed25519.Sign(priv, d[:])}
		if tc.after != nil {
			tc.after(&r)
		}
		if code := s.post(t, "/v1/release", r); code != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, code, tc.want)
		}
	}
}

// post makes an unsigned call and returns the code of its refusal.
func (s *site) post(t *testing.T, path string, body any) string {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	_, e := s.send(t, rawRequest{method: "POST", path: path, body: b, unsigned: true, signer: s.alice, namespace: keyapi.Namespace})
	return e.Code
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	var l keyserver.Limits
	l.PerSecond, l.Burst = 0.001, 3
	s := newSite(t, keyservertest.Options{Limits: l})
	for i := range 4 {
		res, err := s.rawClient(t).Get(s.URL + "/v1/service")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if want := []int{200, 200, 200, 429}[i]; res.StatusCode != want {
			t.Errorf("request %d: status %d, want %d", i, res.StatusCode, want)
		}
		if i == 3 && res.Header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	if _, err := s.Client(t, nil).Nonce(t.Context()); !errors.Is(err, keyclient.ErrTooMany) {
		t.Errorf("the client says %v", err)
	}
}

// newE makes the public half of an HPKE key.
func newE(t *testing.T) []byte {
	t.Helper()
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey().Bytes()
}
