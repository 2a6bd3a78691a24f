package madeup_test

import (
	"encoding/json"
	"testing"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/evidence/madeup"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/attestortest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func TestConforms(t *testing.T) {
	t.Parallel()
	attestortest.TestAttestor(t, func(t *testing.T) attestortest.Subject {
		c := &config.Server{Attestors: map[string]map[string]string{madeup.Name: {"password": madeup.Password}}}
		types, err := attest.Types{madeup.Name: madeup.FromConfig}.Configure(c)
		if err != nil {
			t.Fatal(err)
		}
		a, err := types[madeup.Name](attest.Service{})
		if err != nil {
			t.Fatal(err)
		}
		return attestortest.Subject{
			Attestor: a, Type: madeup.Name, Service: "svc#1", MaxTier: madeup.Tier,
			Claim: keyapi.Claim{Manifest: manifest.DigestOf(nil), Node: "cn1",
				Job: manifest.Job{Cluster: "box", ID: 7, ArrayTask: -1}},
			Prove: func(t testing.TB, service string, c keyapi.Claim) keyapi.Evidence {
				m, err := madeup.Type.Maker(json.RawMessage(`{"user":"alice"}`), evidence.Node{Credential: madeup.Password})
				if err != nil {
					t.Fatal(err)
				}
				ev, err := m.Attest(t.Context(), service, c)
				if err != nil {
					t.Fatal(err)
				}
				return ev
			},
		}
	})
}
