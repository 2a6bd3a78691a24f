// Package madeup is a type of evidence for tests, and what it takes to add one:
// the submitter's and the node's side (Type, a line in the table of package
// builtin) and the key service's (FromConfig, a line in its table of attestors).
// Nodes prove that they know a password, which reaches them with the job.
package madeup

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Name is what the type is called.
const Name = "made-up"

// Tier is what the evidence is worth.
const Tier = manifest.TierB1

// Password is what submitters hand out.
const Password = "open sesame"

// Type is the submitter's and the node's side.
var Type = evidence.Type{
	Plan: plan,
	Credentials: &evidence.Credentials{What: "passwords",
		Obtain: func(_ context.Context, _ evidence.Keys, _ manifest.Digest, nodes int) ([]string, error) {
			return slices.Repeat([]string{Password}, nodes), nil
		}},
	Maker: maker,
}

// plan passes on what the key service says: how nodes are to spell the user.
func plan(s evidence.Submission) (evidence.Plan, error) {
	var p about
	said, ok := s.Service.About(Name)
	if !ok {
		return evidence.Plan{}, errors.New("the key service does not take it")
	}
	return evidence.Plan{Parameters: &p}, manifest.DecodeJSON(said, &p)
}

// about is what the key service tells submitters, and they their nodes.
type about struct {
	User string `json:"user"`
}

type payload struct {
	User string `json:"user"`
	MAC  []byte `json:"mac"` // HMAC-SHA256 of the user and the claim's digest under the password
}

func mac(password []byte, user, service string, c keyapi.Claim) []byte {
	d := keyapi.ClaimDigest(service, c)
	m := hmac.New(sha256.New, password)
	fmt.Fprintf(m, "%s\n%x", user, d)
	return m.Sum(nil)
}

func maker(raw json.RawMessage, n evidence.Node) (evidence.Maker, error) {
	var p about
	if err := manifest.DecodeJSON(raw, &p); err != nil {
		return evidence.Maker{}, err
	}
	return evidence.Maker{Attest: func(_ context.Context, service string, c keyapi.Claim) (keyapi.Evidence, error) {
		return keyapi.NewEvidence(Name, payload{p.User, mac([]byte(n.Credential), p.User, service, c)})
	}}, nil
}

// FromConfig is the key service's side: [attestor made-up] has the password.
func FromConfig(c *config.Server) (attest.New, error) {
	p := c.Attestors[Name]
	if err := store.Parameters(p).Only("password"); err != nil {
		return nil, err
	}
	if p["password"] == "" {
		return nil, errors.New("no password")
	}
	return func(attest.Service) (attest.Attestor, error) { return judge{[]byte(p["password"])}, nil }, nil
}

type judge struct{ password []byte }

// Describe implements attest.Describer.
func (judge) Describe(_ *keyapi.Service, own *keyapi.Attestor) {
	own.About = json.RawMessage(`{"user":"alice"}`)
}

// Attest implements attest.Attestor.
func (j judge) Attest(_ context.Context, service string, c keyapi.Claim, ev keyapi.Evidence) (attest.Claims, error) {
	var p payload
	if err := ev.Decode(Name, &p); err != nil {
		return attest.Claims{}, fmt.Errorf("%w: %w", attest.ErrEvidence, err)
	}
	// One payload has one spelling: the decoder forgives some.
	again, err := keyapi.NewEvidence(Name, p)
	if err != nil || string(again.Payload) != string(ev.Payload) ||
		!hmac.Equal(p.MAC, mac(j.password, p.User, service, c)) {
		return attest.Claims{}, fmt.Errorf("%w: the password does not cover this", attest.ErrEvidence)
	}
	return attest.Claims{Attestor: Name, Tier: Tier, UID: -1, User: p.User, Node: c.Node, Job: c.Job}, nil
}
