package keyclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/retry"
)

// ErrVerifierUnreachable says that the cluster's verifier gave no answer, or
// none that can be trusted.
var ErrVerifierUnreachable = errors.New("the cluster's verifier cannot be reached")

// ErrVerifierRefused is wrapped by every *VerifierError.
var ErrVerifierRefused = errors.New("the cluster's verifier refused")

// VerifierError is the verifier's own refusal.
type VerifierError struct {
	Status int // HTTP
	Answer keyapi.Error
}

// Error gives the verifier's words and its hint.
func (e *VerifierError) Error() string {
	s := fmt.Sprintf("%v: %s (%s)", ErrVerifierRefused, e.Answer.Message, e.Answer.Code)
	if e.Answer.Hint != "" {
		s += "\n" + e.Answer.Hint
	}
	return s
}

// Unwrap makes errors.Is(err, ErrVerifierRefused) hold.
func (e *VerifierError) Unwrap() error { return ErrVerifierRefused }

// Busy says that the verifier may vouch later: it has too much to do, or
// cannot ask MUNGE, Slurm or the key service just now.
func (e *VerifierError) Busy() bool {
	return e.Answer.Code == keyapi.CodeTooMany || e.Answer.Code == keyapi.CodeUnavailable
}

const (
	maxVoucher     = 64 << 10
	verifierPause  = 500 * time.Millisecond // before the second attempt; doubles
	verifierTries  = 4
	verifierAnswer = 20 * time.Second
)

// SlurmEvidence returns what a release needs as its keyclient.AttestFunc: it
// proves claims by a MUNGE credential for which v, the cluster's verifier,
// gives a voucher, within keyapi.NonceTTL. A verifier that is busy or does not
// answer is asked again, with a new credential each time since MUNGE accepts
// none twice. Errors wrap sitecmd.ErrFailed (MUNGE), ErrVerifierUnreachable or
// ErrVerifierRefused.
func SlurmEvidence(v manifest.Verifier, m munge.Commands) (func(ctx context.Context, serviceID string, claim keyapi.Claim) (keyapi.Evidence, error), error) {
	client, err := PinnedClient(v.CA, verifierAnswer)
	if err != nil {
		return nil, fmt.Errorf("verifier of cluster %.80q: %w", v.Cluster, err)
	}
	url := strings.TrimSuffix(v.URL, "/") + "/v1/vouch"
	return func(ctx context.Context, serviceID string, claim keyapi.Claim) (keyapi.Evidence, error) {
		var voucher string
		err := retry.Policy{First: verifierPause, Tries: verifierTries, Worth: worthRetrying}.Do(ctx, func() error {
			cred, err := m.Encode(ctx, v.MungeUser, keyapi.MungePayload(serviceID, claim))
			if err != nil {
				return err
			}
			voucher, err = vouch(ctx, client, url, keyapi.VouchRequest{Service: serviceID, Claim: claim, Credential: cred})
			return err
		})
		if err != nil {
			return keyapi.Evidence{}, err
		}
		return keyapi.NewEvidence(keyapi.EvidenceSlurm, keyapi.SlurmPayload{Voucher: voucher})
	}, nil
}

func worthRetrying(err error) bool {
	if refused, ok := errors.AsType[*VerifierError](err); ok {
		return refused.Busy()
	}
	return errors.Is(err, ErrVerifierUnreachable)
}

// PinnedClient returns a client that trusts ca (PEM) alone, speaks TLS 1.3, and follows nobody: no
// proxy, no redirect.
func PinnedClient(ca string, timeout time.Duration) (*http.Client, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("no certificate authority (PEM) is given")
	}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
			IdleConnTimeout: 10 * time.Second,
			// The verifier relays for many nodes at once: two, the default, would
			// mean a handshake for nearly each.
			MaxIdleConnsPerHost: 64,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// vouch asks the verifier once.
func vouch(ctx context.Context, client *http.Client, url string, v keyapi.VouchRequest) (string, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrVerifierUnreachable, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrVerifierUnreachable, err)
	}
	defer resp.Body.Close()
	b, err := fsx.ReadAll(resp.Body, maxVoucher)
	if err != nil {
		return "", fmt.Errorf("%w: its answer (%s): %w", ErrVerifierUnreachable, resp.Status, err)
	}
	if resp.StatusCode != http.StatusOK {
		refused := &VerifierError{Status: resp.StatusCode}
		if err := manifest.DecodeJSON(b, &refused.Answer); err != nil {
			return "", fmt.Errorf("%w: %s answered %s", ErrVerifierUnreachable, url, resp.Status)
		}
		return "", refused
	}
	var answer keyapi.VouchResponse
	if err := manifest.DecodeJSON(b, &answer); err != nil || answer.Voucher == "" {
		return "", fmt.Errorf("%w: %s answered with no voucher", ErrVerifierUnreachable, url)
	}
	return answer.Voucher, nil
}
