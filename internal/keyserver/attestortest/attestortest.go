// Package attestortest is the conformance test of the key service's attestors.
package attestortest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Subject is an attestor with the means to make genuine evidence for it.
type Subject struct {
	Attestor attest.Attestor
	Type     string
	Service  string
	// Claim is one that Prove can prove; its nonce, E and S are replaced.
	Claim keyapi.Claim
	// Prove makes genuine evidence for a claim to a service.
	Prove func(t testing.TB, service string, c keyapi.Claim) keyapi.Evidence
	// MaxTier is the strongest tier that this kind of evidence can reach.
	MaxTier manifest.Tier
}

// TestAttestor runs the conformance test on subjects that make makes.
func TestAttestor(t *testing.T, make func(t *testing.T) Subject) {
	t.Run("genuine evidence", func(t *testing.T) { t.Parallel(); genuine(t, make(t)) })
	t.Run("evidence of another claim", func(t *testing.T) { t.Parallel(); otherClaim(t, make(t)) })
	t.Run("damaged evidence", func(t *testing.T) { t.Parallel(); damaged(t, make(t)) })
	t.Run("concurrent", func(t *testing.T) { t.Parallel(); concurrent(t, make(t)) })
}

// fresh returns the subject's claim with a nonce and keys of its own.
func (s Subject) fresh(t testing.TB) keyapi.Claim {
	t.Helper()
	c := s.Claim
	c.Nonce = make([]byte, keyapi.NonceSize)
	rand.Read(c.Nonce) // never fails
	e, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	c.E = e.PublicKey().Bytes()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.S = pub
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

func genuine(t *testing.T, s Subject) {
	c := s.fresh(t)
	ev := s.Prove(t, s.Service, c)
	if ev.Type != s.Type {
		t.Fatalf("evidence of type %q, want %q", ev.Type, s.Type)
	}
	for range 2 { // Attest changes nothing, so it says the same again
		got, err := s.Attestor.Attest(t.Context(), s.Service, c, ev)
		if err != nil {
			t.Fatal(err)
		}
		if got.Node != c.Node || got.Job != c.Job {
			t.Errorf("shows job %+v on node %q, claimed are %+v on %q", got.Job, got.Node, c.Job, c.Node)
		}
		if got.Attestor != s.Type || got.User == "" || got.UID == 0 {
			t.Errorf("attestor %q, user %q, uid %d", got.Attestor, got.User, got.UID)
		}
		if got.Tier < manifest.TierC || got.Tier > s.MaxTier {
			t.Errorf("tier %s; this kind of evidence reaches %s at most", got.Tier, s.MaxTier)
		}
	}
}

func (s Subject) refused(t *testing.T, what, service string, c keyapi.Claim, ev keyapi.Evidence) {
	t.Helper()
	got, err := s.Attestor.Attest(t.Context(), service, c, ev)
	if err == nil {
		t.Errorf("%s is accepted: %+v", what, got)
	} else if !errors.Is(err, attest.ErrEvidence) {
		t.Errorf("%s is refused with %v, which is not ErrEvidence", what, err)
	}
}

// otherClaim presents genuine evidence with a claim that differs in one field.
func otherClaim(t *testing.T, s Subject) {
	c := s.fresh(t)
	ev := s.Prove(t, s.Service, c)
	other := s.fresh(t)
	for name, change := range map[string]func(*keyapi.Claim){
		"nonce":        func(c *keyapi.Claim) { c.Nonce = other.Nonce },
		"E":            func(c *keyapi.Claim) { c.E = other.E },
		"S":            func(c *keyapi.Claim) { c.S = other.S },
		"node":         func(c *keyapi.Claim) { c.Node += "x" },
		"cluster":      func(c *keyapi.Claim) { c.Job.Cluster += "x" },
		"job":          func(c *keyapi.Claim) { c.Job.ID++ },
		"array task":   func(c *keyapi.Claim) { c.Job.ArrayTask++ },
		"restart":      func(c *keyapi.Claim) { c.Job.Restart++ },
		"manifest":     func(c *keyapi.Claim) { c.Manifest = manifest.DigestOf([]byte("other")) },
		"a bit of E":   func(c *keyapi.Claim) { c.E = bytes.Clone(c.E); c.E[0] ^= 1 },
		"bounds moved": func(c *keyapi.Claim) { c.E, c.S = append(bytes.Clone(c.E), c.S[0]), c.S[1:] },
	} {
		altered := c
		change(&altered)
		s.refused(t, "evidence for a claim with another "+name, s.Service, altered, ev)
	}
	s.refused(t, "evidence for another service", s.Service+"x", c, ev)
}

// damaged presents evidence that is altered, emptied or of another type.
func damaged(t *testing.T, s Subject) {
	c := s.fresh(t)
	ev := s.Prove(t, s.Service, c)
	with := func(payload string) keyapi.Evidence {
		return keyapi.Evidence{Type: s.Type, Payload: json.RawMessage(payload)}
	}
	if !json.Valid(ev.Payload) || ev.Payload[0] != '{' {
		t.Fatalf("the payload is not a JSON object: %s", ev.Payload)
	}
	text := string(ev.Payload)
	s.refused(t, "no evidence", s.Service, c, with(""))
	s.refused(t, "null as evidence", s.Service, c, with("null"))
	s.refused(t, "an empty payload", s.Service, c, with("{}"))
	s.refused(t, "evidence that names no type", s.Service, c, keyapi.Evidence{Payload: ev.Payload})
	s.refused(t, "evidence of another type", s.Service, c, keyapi.Evidence{Type: "other", Payload: ev.Payload})
	s.refused(t, "evidence with a field more", s.Service, c, with(`{"more":"x",`+text[1:]))
	s.refused(t, "a payload in a list", s.Service, c, with("["+text+"]"))
	s.refused(t, "two payloads", s.Service, c, with(text+text))
	for i := 0; i < len(text); i += max(1, len(text)/64) {
		swap := "A"
		if text[i] == 'A' {
			swap = "B"
		}
		s.refused(t, "evidence with an altered letter", s.Service, c, with(text[:i]+swap+text[i+1:]))
	}
	for _, cut := range []string{text[:len(text)-1], text[1:], text + "A", strings.ToUpper(text)} {
		s.refused(t, "evidence that is cut or extended", s.Service, c, with(cut))
	}
	s.damagedValues(t, c, ev.Payload)
}

// damagedValues cuts and extends each text in the payload, its frame left whole.
func (s Subject) damagedValues(t *testing.T, c keyapi.Claim, payload []byte) {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(payload, &fields); err != nil {
		t.Fatal(err)
	}
	for name, v := range fields {
		text, ok := v.(string)
		if !ok || len(text) < 2 {
			continue
		}
		for _, bad := range []string{"", text[:len(text)-1], text[1:], text + "A", text + "\n", strings.ToUpper(text)} {
			altered := maps.Clone(fields)
			altered[name] = bad
			ev, err := keyapi.NewEvidence(s.Type, altered)
			if err != nil {
				t.Fatal(err)
			}
			s.refused(t, "evidence whose "+name+" is cut or extended", s.Service, c, ev)
		}
	}
}

func concurrent(t *testing.T, s Subject) {
	var wg sync.WaitGroup
	for range 8 {
		c := s.fresh(t)
		ev := s.Prove(t, s.Service, c)
		wg.Go(func() {
			if _, err := s.Attestor.Attest(t.Context(), s.Service, c, ev); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
