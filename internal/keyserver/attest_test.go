package keyserver_test

import (
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/attestortest"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func sampleClaim(digest manifest.Digest) keyapi.Claim {
	return keyapi.Claim{Manifest: digest, Job: manifest.Job{Cluster: "puhti", ID: 7, ArrayTask: -1}, Node: "cn1"}
}

func TestTokenAttestorConforms(t *testing.T) {
	t.Parallel()
	attestortest.TestAttestor(t, func(t *testing.T) attestortest.Subject {
		s := newSite(t, keyservertest.Options{})
		_, b := s.Manifest(t, nil, s.Deposit(t, s.alice, "image", manifest.KindImage, keyservertest.Policy("alice")))
		digest := s.Register(t, s.alice, b)
		return attestortest.Subject{
			Attestor: keyserver.AttestorOf(s.Server, keyapi.EvidenceToken), Type: keyapi.EvidenceToken, Service: s.ID, MaxTier: manifest.TierC,
			Claim: sampleClaim(digest),
			Prove: func(t testing.TB, service string, c keyapi.Claim) keyapi.Evidence {
				tok, err := s.Client(t, s.alice).NewToken(t.Context(), digest, "")
				if err != nil {
					t.Fatal(err)
				}
				ev, err := keyapi.TokenEvidence(tok.Token, service, c)
				if err != nil {
					t.Fatal(err)
				}
				return ev
			},
		}
	})
}
