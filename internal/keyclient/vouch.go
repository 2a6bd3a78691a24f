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

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
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

// Error returns the verifier's words and its hint.
func (e *VerifierError) Error() string {
	s := fmt.Sprintf("%v: %s (%s)", ErrVerifierRefused, e.Answer.Message, e.Answer.Code)
	if e.Answer.Hint != "" {
		s += "\n" + e.Answer.Hint
	}
	return s
}

// Unwrap makes errors.Is(err, ErrVerifierRefused) hold.
func (e *VerifierError) Unwrap() error { return ErrVerifierRefused }

// Busy reports whether the verifier may vouch later: it has too much to do, or
// cannot ask MUNGE, Slurm or the key service just now.
func (e *VerifierError) Busy() bool {
	return e.Answer.Code == keyapi.CodeTooMany || e.Answer.Code == keyapi.CodeUnavailable
}

const (
	maxVoucher     = 64 << 10
	verifierAnswer = 20 * time.Second
)

// Verifier asks a cluster's verifier.
type Verifier struct {
	client *http.Client
	url    string
}

// NewVerifier returns a client of the verifier at url, https, whose certificate
// the authorities in ca (PEM) alone vouch for. It contacts nobody.
func NewVerifier(url, ca string) (*Verifier, error) {
	client, err := PinnedClient(ca, verifierAnswer)
	if err != nil {
		return nil, err
	}
	return &Verifier{client, strings.TrimSuffix(url, "/") + "/v1/vouch"}, nil
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

// Vouch asks the verifier once for a voucher. Errors wrap ErrVerifierUnreachable
// or are a *VerifierError.
func (v *Verifier) Vouch(ctx context.Context, q keyapi.VouchRequest) (string, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return "", fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.url, bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrVerifierUnreachable, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := v.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrVerifierUnreachable, fault.Network(err, req.URL.Host, "the cluster's verifier-url"))
	}
	defer resp.Body.Close()
	b, err := fsx.ReadAll(resp.Body, maxVoucher)
	if err != nil {
		return "", fmt.Errorf("%w: its answer (%s): %w", ErrVerifierUnreachable, resp.Status, err)
	}
	if resp.StatusCode != http.StatusOK {
		refused := &VerifierError{Status: resp.StatusCode}
		if err := manifest.DecodeJSON(b, &refused.Answer); err != nil {
			return "", fmt.Errorf("%w: %s answered %s", ErrVerifierUnreachable, v.url, resp.Status)
		}
		return "", refused
	}
	var answer keyapi.VouchResponse
	if err := manifest.DecodeJSON(b, &answer); err != nil || answer.Voucher == "" {
		return "", fmt.Errorf("%w: %s answered with no voucher", ErrVerifierUnreachable, v.url)
	}
	return answer.Voucher, nil
}
