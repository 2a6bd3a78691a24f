package keyserver_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// claimed is a release that a test sends as often as it likes.
type claimed struct {
	*site
	volume  keyservertest.Volume
	release keyapi.Release
	e       hpke.PrivateKey
	s       ed25519.PrivateKey
}

func newClaimed(t *testing.T, c *clock, change func(*manifest.Policy)) *claimed {
	t.Helper()
	s := newSite(t, keyservertest.Options{Now: c.now})
	p := keyservertest.Policy("alice")
	if change != nil {
		change(&p)
	}
	out := &claimed{site: s, volume: s.Deposit(t, s.alice, "data", manifest.KindDataset, p)}
	_, b := s.Manifest(t, nil, out.volume)
	digest := s.Register(t, s.alice, b)
	n, err := s.Client(t, nil).Nonce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out.e, err = hpke.MLKEM768X25519().GenerateKey(); err != nil {
		t.Fatal(err)
	}
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	out.s = priv
	out.release.Claim = keyapi.Claim{Manifest: digest, Job: manifest.Job{Cluster: s.Cluster, ID: 7, ArrayTask: -1}, Node: "cn1",
		Nonce: n.Nonce, E: out.e.PublicKey().Bytes(), S: pub}
	out.prove(t)
	return out
}

// prove attests the claim as it is now.
func (c *claimed) prove(t *testing.T) {
	t.Helper()
	var err error
	if c.release.Evidence, err = c.Attest("alice", 1000, nil, nil)(t.Context(), c.ID, c.release.Claim); err != nil {
		t.Fatal(err)
	}
	d := keyapi.ClaimDigest(c.ID, c.release.Claim)
	c.release.Proof = ed25519.Sign(c.s, d[:])
}

// send makes the release and returns "" if its keys came, else the refusal's code.
func (c *claimed) send(t *testing.T) string {
	t.Helper()
	b, err := json.Marshal(c.release)
	if err != nil {
		t.Fatal(err)
	}
	return c.sendRaw(t, b)
}

func (c *claimed) sendRaw(t *testing.T, b []byte) string {
	t.Helper()
	res, err := c.rawClient(t).Post(c.URL+"/v1/release", "application/json", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		var e keyapi.Error
		if err := manifest.DecodeJSON(body, &e); err != nil {
			t.Fatal(err)
		}
		return e.Code
	}
	var out keyapi.Released
	if err := manifest.DecodeJSON(body, &out); err != nil {
		t.Fatal(err)
	}
	bundle, err := keyapi.OpenBundle(c.e, c.ID, c.release.Claim, out.Sealed)
	if err != nil || len(bundle.Keys) != 1 || !bytes.Equal(bundle.Keys[0].Key, c.volume.Key) {
		t.Errorf("%d keys, %v", len(bundle.Keys), err)
	}
	return ""
}

func (c *claimed) counted(t *testing.T, want int) {
	t.Helper()
	i, err := c.Client(t, c.alice).GetSecret(t.Context(), c.volume.ID)
	if err != nil || i.Released != want {
		t.Errorf("%d releases are counted, %v; want %d", i.Released, err, want)
	}
}

// TestRepeat asks again for the answer to a release that was made: the same
// bytes get the same keys, whatever differs is refused, and all of it counts once.
func TestRepeat(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		between func(t *testing.T, c *claimed, clk *clock)
		want    string
	}{
		"the same": {func(*testing.T, *claimed, *clock) {}, ""},
		"the same, when evidence and nonce are long stale": {func(_ *testing.T, _ *claimed, clk *clock) {
			clk.add(keyapi.RepeatTTL - time.Minute)
		}, ""},
		"the same, of another run of the service": {func(t *testing.T, c *claimed, _ *clock) { c.Stop(t); c.Run(t) }, ""},
		"the same, when its verifier is enrolled no more": {func(t *testing.T, c *claimed, _ *clock) {
			c.Stop(t)
			c.Cluster = "elsewhere"
			c.Run(t)
		}, keyapi.CodeAttestation},
		"the same, when its verifier has another key": {func(t *testing.T, c *claimed, _ *clock) {
			c.Stop(t)
			_, c.VerifierKey, _ = ed25519.GenerateKey(nil)
			c.Run(t)
		}, keyapi.CodeAttestation},
		"the same, too late": {func(_ *testing.T, _ *claimed, clk *clock) {
			clk.add(keyapi.RepeatTTL + time.Second)
		}, keyapi.CodeAttestation},
		"the same, when the key was revoked": {func(t *testing.T, c *claimed, _ *clock) {
			if _, err := c.Client(t, c.alice).Revoke(t.Context(), c.volume.ID); err != nil {
				t.Error(err)
			}
		}, keyapi.CodePolicy},
		"the same, when the policy names somebody else": {func(t *testing.T, c *claimed, _ *clock) {
			if _, err := c.Client(t, c.alice).SetPolicy(t.Context(), c.volume.ID, keyservertest.Policy("bob")); err != nil {
				t.Error(err)
			}
		}, keyapi.CodePolicy},
		"another E": {func(t *testing.T, c *claimed, _ *clock) {
			var err error
			if c.e, err = hpke.MLKEM768X25519().GenerateKey(); err != nil {
				t.Fatal(err)
			}
			c.release.Claim.E = c.e.PublicKey().Bytes()
			c.prove(t)
		}, keyapi.CodeAttestation}, // the nonce is used up
		"another E without evidence for it": {func(t *testing.T, c *claimed, _ *clock) { c.release.Claim.E = newE(t) }, keyapi.CodeAttestation},
		"other evidence": {func(t *testing.T, c *claimed, clk *clock) {
			clk.add(2 * time.Second)
			c.prove(t)
		}, keyapi.CodeAttestation},
		"another nonce and E": {func(t *testing.T, c *claimed, _ *clock) {
			n, err := c.Client(t, nil).Nonce(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.release.Claim.Nonce, c.release.Claim.E = n.Nonce, newE(t)
			c.prove(t)
		}, keyapi.CodeConflict},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clk := &clock{}
			c := newClaimed(t, clk, func(p *manifest.Policy) { p.Releases = 1 })
			if got := c.send(t); got != "" {
				t.Fatalf("the first: %s", got)
			}
			tc.between(t, c, clk)
			if got := c.send(t); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			clk.offset.Store(0)
			c.counted(t, 1)
			if tc.want == "" {
				c.wantAudited(t, `"event":"release","outcome":"repeated"`, `"node":"cn1"`, `"user":"alice"`)
			}
		})
	}
}

// TestRepeatWithABlank sends a release again that differs by a blank.
func TestRepeatWithABlank(t *testing.T) {
	t.Parallel()
	c := newClaimed(t, &clock{}, nil)
	b, err := json.Marshal(c.release)
	if err != nil {
		t.Fatal(err)
	}
	if first, second := c.sendRaw(t, b), c.sendRaw(t, append(b, ' ')); first != "" || second != keyapi.CodeAttestation {
		t.Errorf("%q, then %q", first, second)
	}
}

// TestRepeatsAtOnce sends one release twenty times at once: all are answered,
// one is counted.
func TestRepeatsAtOnce(t *testing.T) {
	t.Parallel()
	c := newClaimed(t, &clock{}, func(p *manifest.Policy) { p.Releases = 1 })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got := c.send(t); got != "" {
				t.Error(got)
			}
		})
	}
	wg.Wait()
	c.counted(t, 1)
}
