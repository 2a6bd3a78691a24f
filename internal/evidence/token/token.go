// Package token makes evidence of type "token": the submitter obtains one-time
// tokens, which reach the job's nodes, and a node proves that it holds one.
package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Type is the type of evidence.
var Type = evidence.Type{
	Plan:        plan,
	Credentials: &evidence.Credentials{What: "one-time tokens", Obtain: obtain},
	Maker:       maker,
}

// parameters are none.
type parameters struct{}

// plan refuses a job that could only be refused on the node.
func plan(s evidence.Submission) (evidence.Plan, error) {
	if s.Tier > manifest.TierC {
		err := fmt.Errorf("one-time tokens are evidence of tier C, and the job demands tier %s", s.Tier)
		return evidence.Plan{}, fault.New(fault.Usage, err, "add --tier C, or choose other evidence with --attest")
	}
	return evidence.Plan{Parameters: parameters{}}, nil
}

// obtain returns a token for each node.
func obtain(ctx context.Context, k evidence.Keys, digest manifest.Digest, nodes int) (tokens []string, err error) {
	for range nodes {
		t, err := k.NewToken(ctx, digest, "")
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t.Token)
	}
	return tokens, nil
}

func maker(raw json.RawMessage, n evidence.Node) (evidence.Maker, error) {
	if err := manifest.DecodeJSON(raw, &parameters{}); err != nil {
		return evidence.Maker{}, err
	}
	if n.Credential == "" {
		return evidence.Maker{}, errors.New("there is no token for this node")
	}
	return evidence.Maker{Attest: Attest(n.Credential)}, nil
}

// Attest attests by a one-time token.
func Attest(token string) keyclient.AttestFunc {
	return func(_ context.Context, service string, c keyapi.Claim) (keyapi.Evidence, error) {
		return keyapi.TokenEvidence(token, service, c)
	}
}
