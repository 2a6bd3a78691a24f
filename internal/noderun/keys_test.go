package noderun

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// keyFunc is a KeySource.
type keyFunc func(ctx context.Context) (keyclient.Released, error)

func (f keyFunc) Fetch(ctx context.Context, _ KeyRequest) (keyclient.Released, error) { return f(ctx) }

// Waits double from a second on, and are half to one and a half of that: a job's
// nodes do not come back in step.
func TestFetchKeysTriesAgain(t *testing.T) {
	t.Parallel()
	unknown := fmt.Errorf("%w: %w", ErrUnreachable, &net.DNSError{IsNotFound: true})
	untrusted := fmt.Errorf("%w: %w", ErrUnreachable, &tls.CertificateVerificationError{Err: errors.New("expired")})
	const limit = 80 * time.Second
	for name, c := range map[string]struct {
		answers     []error // the last one stays
		err         error
		least, most int           // tries
		took        time.Duration // on average
	}{
		"at once":         {[]error{nil}, nil, 1, 1, 0},
		"third time":      {[]error{ErrUnreachable, ErrUnreachable, nil}, nil, 3, 3, 3 * time.Second},
		"refused":         {[]error{ErrUnreachable, ErrAttestation}, ErrAttestation, 2, 2, time.Second},
		"key refused":     {[]error{ErrKeyRefused}, ErrKeyRefused, 1, 1, 0},
		"never":           {[]error{ErrUnreachable}, ErrUnreachable, 6, 10, limit},
		"nobody knows it": {[]error{unknown, nil}, ErrUnreachable, 1, 1, 0},
		"not trusted":     {[]error{untrusted, nil}, ErrUnreachable, 1, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tries, begin := 0, time.Now()
				_, err := fetchKeys(t.Context(), keyFunc(func(context.Context) (keyclient.Released, error) {
					tries++
					return keyclient.Released{}, c.answers[min(tries, len(c.answers))-1]
				}), KeyRequest{}, limit, slog.New(slog.DiscardHandler))
				took := time.Since(begin)
				if !errors.Is(err, c.err) || tries < c.least || tries > c.most || took < c.took/2 || took > min(c.took*3/2, limit) {
					t.Errorf("%v after %d tries in %v; want %v, %d to %d, about %v", err, tries, took, c.err, c.least, c.most, c.took)
				}
				if errors.Is(err, ErrUnreachable) && !strings.Contains(fault.Hint(err), "submit the job again") {
					t.Errorf("hint %q", fault.Hint(err))
				}
			})
		})
	}
}

func TestFetchKeysStopsForTheReason(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancelCause(t.Context())
	_, err := fetchKeys(ctx, keyFunc(func(context.Context) (keyclient.Released, error) {
		stop(errTimeLimit)
		return keyclient.Released{}, ErrUnreachable
	}), KeyRequest{}, time.Hour, slog.New(slog.DiscardHandler))
	if !errors.Is(err, errTimeLimit) || exitOf(err, 0) != ExitTimeLimit {
		t.Error(err)
	}
}

// TestFetchKeysInVain tells who does not answer, and what to do.
func TestFetchKeysInVain(t *testing.T) {
	t.Parallel()
	m := manifest.Manifest{Service: manifest.Service{URL: "https://keys:1"}}
	busy := func(err error) error {
		return &evidence.UnavailableError{Who: "the verifier of cluster box at https://login:2", Err: err}
	}
	for _, c := range []struct {
		err        error
		says, hint string
	}{
		{keyclient.ErrUnavailable, "no keys yet: " + keyclient.ErrUnavailable.Error(), "the key service at https://keys:1 finds"},
		{fmt.Errorf("%w: %w", keyclient.ErrAttestation, busy(keyclient.ErrVerifierUnreachable)),
			"the cluster's verifier cannot be reached", "the verifier of cluster box at https://login:2 finds"},
		{busy(&keyclient.VerifierError{Answer: keyapi.Error{Code: keyapi.CodeUnavailable, Message: "no munged"}}),
			"no munged", "the verifier of cluster box"},
	} {
		src := keyFunc(func(context.Context) (keyclient.Released, error) { return keyclient.Released{}, keyError(c.err) })
		_, err := fetchKeys(t.Context(), src, KeyRequest{Manifest: m}, time.Nanosecond, slog.New(slog.DiscardHandler))
		hint := fault.Hint(err)
		if exitOf(err, 0) != ExitKey || !strings.Contains(err.Error(), c.says) ||
			!strings.Contains(hint, c.hint) || !strings.Contains(hint, "submit the job again") {
			t.Errorf("%v\n%s", err, hint)
		}
	}
}

func TestFetchTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			ends, want time.Duration
		}{{time.Hour, fetchLimit}, {8 * time.Minute, 3 * time.Minute}, {time.Minute, 0}} {
			if got := fetchTime(allocation{ends: time.Now().Add(c.ends)}, 300); got != c.want {
				t.Errorf("%v before the end: %v, want %v", c.ends, got, c.want)
			}
		}
		if got := fetchTime(allocation{}, 300); got != fetchLimit {
			t.Errorf("unknown end: %v", got)
		}
	})
}

func TestKeyErrorsHaveOneMeaning(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, want error }{
		{keyclient.ErrUnavailable, ErrUnreachable},
		{keyclient.ErrTooMany, ErrUnreachable},
		{keyclient.ErrForeign, ErrUnreachable},
		{fmt.Errorf("%w: %w", keyclient.ErrAttestation, &evidence.UnavailableError{Err: keyclient.ErrVerifierUnreachable}),
			ErrUnreachable},
		{fmt.Errorf("%w: %w", keyclient.ErrAttestation, keyclient.ErrVerifierRefused), ErrAttestation},
		{&evidence.UnavailableError{Err: &keyclient.VerifierError{}}, ErrUnreachable},
		{fmt.Errorf("%w: %w", keyclient.ErrAttestation, &keyclient.VerifierError{Answer: keyapi.Error{Code: keyapi.CodeAttestation}}),
			ErrAttestation},
		{keyclient.ErrAttestation, ErrAttestation},
		{keyclient.ErrPolicy, ErrKeyRefused},
		{keyclient.ErrConflict, ErrKeyRefused},
		{keyclient.ErrService, ErrKeyRefused},
	} {
		err := keyError(c.from)
		for _, class := range []error{ErrUnreachable, ErrAttestation, ErrKeyRefused} {
			if errors.Is(err, class) != errors.Is(class, c.want) {
				t.Errorf("%v became %v", c.from, err)
			}
		}
		if !errors.Is(err, c.from) {
			t.Errorf("%v was lost", c.from)
		}
		if said := err.Error(); strings.Count(said, c.want.Error()) != 1 && c.want != ErrUnreachable {
			t.Errorf("%q says something twice, or not at all", said)
		}
	}
}
