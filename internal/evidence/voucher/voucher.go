// Package voucher makes evidence of type "slurm": a MUNGE credential over the
// claim, which the cluster's verifier turns into a voucher once slurmctld has
// confirmed the job. The verifier relays to the key service, too.
package voucher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/retry"
)

// Type is the type of evidence.
var Type = evidence.Type{
	Plan: plan,
	Maker: func(raw json.RawMessage, n evidence.Node) (evidence.Maker, error) {
		return maker(raw, n, munge.Commands{})
	},
	Check:    &evidence.Check{What: "MUNGE", Run: check},
	Services: &evidence.Services{What: "verifier", List: verifiers},
}

// Parameters say how nodes reach their cluster's verifier.
type Parameters struct {
	URL string `json:"url"`
	CA  string `json:"ca"` // PEM
	// MungeUser is the user for whose eyes credentials are restricted.
	MungeUser string `json:"munge_user"`
}

const hintTokens = "without a verifier only --tier C is possible"

// plan chooses the cluster's verifier from those that the key service names.
func plan(s evidence.Submission) (evidence.Plan, error) {
	var known []string
	for _, c := range s.Service.Clusters {
		known = append(known, c.Name)
		if c.Name == s.Cluster || (s.Cluster == "" && len(s.Service.Clusters) == 1) {
			p := Parameters{URL: c.VerifierURL, CA: c.VerifierCA, MungeUser: c.MungeUser}
			return evidence.Plan{Parameters: p, Cluster: c.Name}, p.check()
		}
	}
	err := fmt.Errorf("the key service knows no verifier of cluster %q (it knows %q)", s.Cluster, known)
	return evidence.Plan{}, fault.New(fault.Config, err, "name the cluster under [supercomputer] cluster; "+hintTokens)
}

func (p Parameters) check() error {
	if !strings.HasPrefix(p.URL, "https://") {
		return fmt.Errorf("%w: the verifier has no https URL", manifest.ErrInvalid)
	}
	return nil
}

func maker(raw json.RawMessage, n evidence.Node, m munge.Commands) (evidence.Maker, error) {
	var p Parameters
	if err := manifest.DecodeJSON(raw, &p); err != nil {
		return evidence.Maker{}, err
	}
	if err := p.check(); err != nil {
		return evidence.Maker{}, err
	}
	attest, err := Attest(n.Cluster, p, m)
	relay := evidence.Endpoint{Name: "verifier of cluster " + n.Cluster, URL: p.URL, CA: p.CA}
	return evidence.Maker{Attest: attest, Relay: relay}, err
}

const (
	pause = 500 * time.Millisecond // before the second attempt; grows
	tries = 4
)

// Attest returns what proves claims by a MUNGE credential for which the verifier
// of cluster gives a voucher, within keyapi.NonceTTL. A verifier that is busy or
// does not answer is asked again, with a new credential each time since MUNGE
// accepts none twice; if that does not help, its error is an
// *evidence.UnavailableError. Other errors wrap sitecmd.ErrFailed (MUNGE) or
// keyclient.ErrVerifierRefused.
func Attest(cluster string, p Parameters, m munge.Commands) (keyclient.AttestFunc, error) {
	verifier, err := keyclient.NewVerifier(p.URL, p.CA)
	if err != nil {
		return nil, fmt.Errorf("verifier of cluster %.80q: %w", cluster, err)
	}
	return func(ctx context.Context, serviceID string, claim keyapi.Claim) (keyapi.Evidence, error) {
		var voucher string
		err := retry.Policy{First: pause, Tries: tries, Worth: passes}.Do(ctx, func() error {
			cred, err := m.Encode(ctx, p.MungeUser, keyapi.MungePayload(serviceID, claim))
			if err != nil {
				return err
			}
			voucher, err = verifier.Vouch(ctx, keyapi.VouchRequest{Service: serviceID, Claim: claim, Credential: cred})
			return err
		})
		if passes(err) {
			who := fmt.Sprintf("the administrator of the verifier of cluster %s at %s", cluster, p.URL)
			err = &evidence.UnavailableError{Who: who, Err: err}
		}
		if err != nil {
			return keyapi.Evidence{}, err
		}
		return keyapi.NewEvidence(keyapi.EvidenceSlurm, keyapi.SlurmPayload{Voucher: voucher})
	}, nil
}

// passes reports whether the verifier may vouch later.
func passes(err error) bool {
	if refused, ok := errors.AsType[*keyclient.VerifierError](err); ok {
		return refused.Busy()
	}
	return errors.Is(err, keyclient.ErrVerifierUnreachable)
}

// checkLimit is how long munge may take.
const checkLimit = 10 * time.Second

func check(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	_, err := munge.Commands{}.Encode(ctx, fmt.Sprint(os.Geteuid()), []byte("sealbatch doctor"))
	return "makes credentials", fault.New(fault.Other, err, "without it, jobs can attest by token only (--tier C)")
}

func verifiers(s keyapi.Service) (all []evidence.Endpoint, err error) {
	for _, c := range s.Clusters {
		all = append(all, evidence.Endpoint{
			Name: "verifier of cluster " + c.Name, URL: c.VerifierURL, CA: c.VerifierCA, Tier: c.Tier,
		})
	}
	if len(all) == 0 {
		err = fault.New(fault.Other, errors.New("the key service knows no cluster: jobs can attest by token only (--tier C)"),
			"have the site run sealbatch verifier, and its operator enrol it")
	}
	return all, err
}
