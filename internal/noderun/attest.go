package noderun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/volume"
)

// serviceKeys asks the manifest's key service, by evidence that the manifest
// settles: MUNGE and the cluster's verifier, or else a one-time token.
type serviceKeys struct {
	job fsx.Dir // has the tokens
	log *slog.Logger
}

// Fetch implements KeySource.
func (s serviceKeys) Fetch(ctx context.Context, req KeyRequest) (Grant, error) {
	evidence, err := s.evidence(req)
	if err != nil {
		return Grant{}, fmt.Errorf("%w: %w", ErrAttestation, err)
	}
	client, err := s.client(ctx, req.Manifest)
	if err != nil {
		return Grant{}, keyError(err)
	}
	released, err := client.Release(ctx, keyclient.ReleaseRequest{
		Manifest: req.Manifest, Digest: req.Digest, Job: req.Job, Node: req.Node, Attest: evidence,
	})
	if err != nil {
		return Grant{}, keyError(err)
	}
	return grantOf(req.Manifest, released)
}

func (s serviceKeys) evidence(req KeyRequest) (keyclient.AttestFunc, error) {
	if req.Manifest.Verifier.Cluster != "" {
		return keyclient.SlurmEvidence(req.Manifest.Verifier, munge.Commands{})
	}
	token, err := readToken(s.job, req.NodeID)
	if err != nil {
		return nil, err
	}
	return keyclient.TokenAttest(token), nil
}

// maxTokens bounds the file of tokens: 65536 nodes at 100 bytes and more.
const maxTokens = 8 << 20

// readToken reads the line of node number node, counted from 0.
func readToken(job fsx.Dir, node int) (string, error) {
	b, err := job.ReadRegular(jobdir.TokensName, maxTokens)
	if err != nil {
		return "", fmt.Errorf("the manifest names no cluster; read the tokens: %w", err)
	}
	defer clear(b)
	lines := strings.Split(string(b), "\n")
	if node >= len(lines) || strings.TrimSpace(lines[node]) == "" {
		return "", fmt.Errorf("there is no token for node number %d", node)
	}
	return strings.TrimSpace(lines[node]), nil
}

// directLimit is how long the key service gets to answer before the verifier
// is asked to relay: compute nodes often have no route to the outside.
const directLimit = 5 * time.Second

// client reaches the key service directly, else through the verifier. Either
// way it is the pinned service that answers: keys are sealed to this process,
// and the relay learns none.
func (s serviceKeys) client(ctx context.Context, m manifest.Manifest) (*keyclient.Client, error) {
	direct, err := keyclient.New(keyclient.Options{
		URL: m.Service.URL, CA: []byte(m.Service.CA), ServiceID: m.Service.ID, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	if m.Verifier.URL == "" {
		return direct, nil
	}
	probe, cancel := context.WithTimeout(ctx, directLimit)
	defer cancel()
	if _, err = direct.Service(probe); !errors.Is(err, keyclient.ErrUnavailable) {
		return direct, err
	}
	return keyclient.New(keyclient.Options{
		URL: m.Verifier.URL, CA: []byte(m.Verifier.CA), ServiceID: m.Service.ID, Log: s.log,
	})
}

// keyError gives an error of the clients the meaning that it has here.
func keyError(err error) error {
	if v, ok := errors.AsType[*keyclient.VerifierError](err); ok && v.Busy() {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	for _, m := range []struct{ from, to error }{
		{keyclient.ErrVerifierUnreachable, ErrUnreachable}, // first: it comes wrapped as an attestation error
		{keyclient.ErrUnavailable, ErrUnreachable},
		{keyclient.ErrTooMany, ErrUnreachable},
		{keyclient.ErrAttestation, ErrAttestation},
		{keyclient.ErrBadRequest, ErrAttestation},
	} {
		if errors.Is(err, m.from) {
			return fmt.Errorf("%w: %w", m.to, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrKeyRefused, err)
}

func grantOf(m manifest.Manifest, r keyclient.Released) (Grant, error) {
	g := Grant{Signer: r.S, Statement: r.StatementJWS, Private: r.Private}
	defer func() {
		for _, k := range r.Keys {
			clear(k)
		}
	}()
	for _, v := range m.Volumes {
		key, err := volume.KeyFromBytes(r.Keys[v.VolumeID])
		if err != nil {
			return Grant{}, fmt.Errorf("%w: volume %s: %w", ErrKeyRefused, v.VolumeID, err)
		}
		// Release has compared the released digest with the manifest's.
		g.Keys = append(g.Keys, GrantedKey{VolumeID: v.VolumeID, Digest: v.Digest, Key: key})
	}
	return g, nil
}
