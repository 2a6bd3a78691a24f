package noderun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// serviceKeys asks the manifest's key service, by the evidence that the manifest names.
type serviceKeys struct {
	types      evidence.Types
	credential string // the node's own; empty if the type has none
	log        *slog.Logger
}

// Fetch implements KeySource.
func (s serviceKeys) Fetch(ctx context.Context, req KeyRequest) (keyclient.Released, error) {
	maker, err := s.types.Maker(req.Manifest.Attest, evidence.Node{
		Cluster: req.Manifest.Cluster, Credential: s.credential,
	})
	if err != nil {
		return keyclient.Released{}, fmt.Errorf("%w: %w", ErrAttestation, err)
	}
	client, err := s.client(ctx, req.Manifest.Service, maker.Relay)
	if err != nil {
		return keyclient.Released{}, keyError(err)
	}
	released, err := client.Release(ctx, keyclient.ReleaseRequest{
		Manifest: req.Manifest, Digest: req.Digest, Job: req.Job, Node: req.Node, Attest: maker.Attest,
	})
	if err != nil {
		return keyclient.Released{}, keyError(err)
	}
	return released, nil
}

// directLimit is how long the key service gets to answer before a relay
// is asked: compute nodes often have no route to the outside.
const directLimit = 5 * time.Second

// client reaches the key service directly, else through the relay. Either
// way it is the pinned service that answers: keys are sealed to this process,
// and the relay learns none.
func (s serviceKeys) client(ctx context.Context, to manifest.Service, relay evidence.Endpoint) (*keyclient.Client, error) {
	direct, err := keyclient.New(keyclient.Options{
		URL: to.URL, CA: []byte(to.CA), ServiceID: to.ID, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	if relay.URL == "" {
		return direct, nil
	}
	probe, cancel := context.WithTimeout(ctx, directLimit)
	defer cancel()
	_, err = direct.Service(probe)
	// A firewall of the site's may answer in the service's place.
	if !errors.Is(err, keyclient.ErrUnavailable) && !errors.Is(err, keyclient.ErrForeign) {
		return direct, err
	}
	return keyclient.New(keyclient.Options{
		URL: relay.URL, CA: []byte(relay.CA), ServiceID: to.ID, Log: s.log,
	})
}

// as returns err as one of a kind, whose words it does not say twice.
func as(kind, err error) error {
	is := fmt.Errorf("%w: %w", kind, err)
	if said := err.Error(); strings.HasPrefix(said+": ", kind.Error()+": ") {
		return fault.Reword(is, said)
	}
	return is
}

// keyError returns an error of the clients with the meaning that it has here.
func keyError(err error) error {
	// First: it comes wrapped as an attestation error.
	if _, ok := errors.AsType[*evidence.UnavailableError](err); ok {
		return as(ErrUnreachable, err)
	}
	for _, m := range []struct{ from, to error }{
		{keyclient.ErrUnavailable, ErrUnreachable},
		{keyclient.ErrForeign, ErrUnreachable},
		{keyclient.ErrTooMany, ErrUnreachable},
		{keyclient.ErrAttestation, ErrAttestation},
		{keyclient.ErrBadRequest, ErrAttestation},
	} {
		if errors.Is(err, m.from) {
			return as(m.to, err)
		}
	}
	return as(ErrKeyRefused, err)
}
