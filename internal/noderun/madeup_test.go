package noderun

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/evidence/builtin"
	"github.com/sealbatch/sealbatch/internal/evidence/madeup"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/keyserver/token"
	"github.com/sealbatch/sealbatch/internal/keyserver/voucher"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// withMadeUp are the tables of both sides, with a line more.
func withMadeUp(t *testing.T) (evidence.Types, map[string]attest.New) {
	t.Helper()
	types := maps.Clone(builtin.Types)
	types[madeup.Name] = madeup.Type
	judges, err := attest.Types{
		keyapi.EvidenceSlurm: voucher.FromConfig, keyapi.EvidenceToken: token.FromConfig, madeup.Name: madeup.FromConfig,
	}.Configure(&config.Server{Attestors: map[string]map[string]string{madeup.Name: {"password": madeup.Password}}})
	check(t, err)
	return types, judges
}

// closed is an input that knows whether it was closed.
type closed struct {
	io.Reader
	closed bool
}

func (c *closed) Close() error {
	c.closed = true
	return nil
}

// TestCredentialIsAwaited: a run that has to stop does not wait for its input.
func TestCredentialIsAwaited(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readCredential(ctx, r, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestMadeUpEvidence takes a type of evidence that one package adds, and a line in
// each table, from the submission to the released key.
func TestMadeUpEvidence(t *testing.T) {
	t.Parallel()
	types, judges := withMadeUp(t)
	alice := keyservertest.NewSigner(t)
	s := keyservertest.Start(t, keyservertest.Options{
		Accounts: map[string]ssh.PublicKey{"alice": alice.PublicKey()}, Attestors: judges,
	})
	image := s.Deposit(t, alice, "image", manifest.KindImage, keyservertest.Policy("alice"))

	described, err := s.Client(t, alice).Service(t.Context())
	check(t, err)
	named, cluster, err := types.Plan(madeup.Name, evidence.Submission{Service: described})
	check(t, err)
	m, signed := s.Manifest(t, func(m *manifest.Manifest) { m.Attest, m.Cluster, m.Tier = named, cluster, madeup.Tier }, image)
	digest := s.Register(t, alice, signed)
	credentials := types[madeup.Name].Credentials
	secrets, err := credentials.Obtain(t.Context(), s.Client(t, alice), digest, m.Nodes)
	check(t, err)
	j := job{manifest: m, alloc: allocation{nodeID: 1}}
	for what, input := range map[string]string{"no line for the node": "first\n", "an empty one": "first\n\n", "nothing": ""} {
		_, err := j.keysByEvidence(t.Context(), types, io.NopCloser(strings.NewReader(input)))
		if !errors.Is(err, ErrAttestation) || fault.Hint(err) == "" {
			t.Errorf("input with %s: %v", what, err)
		}
	}
	input := closed{Reader: strings.NewReader("first\n" + secrets[0] + "\nthird\n")}
	keys, err := j.keysByEvidence(t.Context(), types, &input)
	if err != nil || keys.credential != madeup.Password || !input.closed {
		t.Fatalf("%+v, %v", keys, err)
	}
	keys.log = slog.New(slog.DiscardHandler)

	req := KeyRequest{Manifest: m, Digest: digest, Job: manifest.Job{Cluster: s.Cluster, ID: 7, ArrayTask: -1}, Node: "cn1"}
	unknown := keys
	unknown.types = builtin.Types
	if _, err := unknown.Fetch(t.Context(), req); !errors.Is(err, ErrAttestation) {
		t.Errorf("a node that does not know the type: %v", err)
	}
	wrong := keys
	wrong.credential = "wrong"
	if _, err := wrong.Fetch(t.Context(), req); !errors.Is(err, ErrAttestation) {
		t.Errorf("another password: %v", err)
	}
	odd := req
	odd.Manifest.Attest.Parameters = json.RawMessage(`{"user":"alice","more":1}`)
	if _, err := keys.Fetch(t.Context(), odd); !errors.Is(err, ErrAttestation) {
		t.Errorf("unknown parameters: %v", err)
	}

	g, err := keys.Fetch(t.Context(), req)
	check(t, err)
	st, err := checkStatement(g, req)
	if err != nil || st.Attestor != madeup.Name || st.Tier != madeup.Tier || st.User != "alice" {
		t.Errorf("statement %+v, %v", st, err)
	}
	if !bytes.Equal(g.Keys[image.ID].Key, image.Key) {
		t.Error("the released key is not the image's")
	}
}
