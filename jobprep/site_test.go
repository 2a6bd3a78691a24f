package jobprep

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/evidence/builtin"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// runner answers as Slurm's commands would; the shell is this machine's.
type runner func(argv []string, stdin string) (stdout, stderr string, exit int)

// Run implements slurm.Runner.
func (r runner) Run(ctx context.Context, argv []string, stdin io.Reader) ([]byte, []byte, int, error) {
	if argv[0] == "sh" {
		return transfer.Local{}.Run(ctx, argv, stdin)
	}
	var in []byte
	if stdin != nil {
		var err error
		if in, err = io.ReadAll(stdin); err != nil {
			return nil, nil, 0, err
		}
	}
	out, errOut, exit := r(argv, string(in))
	return []byte(out), []byte(errOut), exit, nil
}

// site is a site that is this machine, a key service, and a user
// who has published an image and a dataset.
type site struct {
	t       *testing.T
	service *keyservertest.Service
	alice   ssh.Signer
	scratch string // on the site
	state   string // of the submission store
	d       Deps
	o       Options
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newService(t).site(t)
}

// party is a key service with one account; several sites may share it.
type party struct {
	service *keyservertest.Service
	alice   ssh.Signer
}

func newService(t *testing.T) party {
	t.Helper()
	alice := keyservertest.NewSigner(t)
	return party{alice: alice, service: keyservertest.Start(t, keyservertest.Options{
		Accounts: map[string]ssh.PublicKey{"alice": alice.PublicKey()}, VerifierURL: "https://verifier.example.org:8444", VerifierCA: "PEM",
		Limits: keyserver.Limits{PerSecond: 1e6, Burst: 1e6},
	})}
}

func (p party) site(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, service: p.service, alice: p.alice, scratch: t.TempDir(), state: t.TempDir()}
	store, err := submission.Open(s.state)
	check(t, err)
	s.d = Deps{
		Evidence: builtin.Types,
		FS:       transfer.Local{}, Keys: s.service.Client(t, s.alice), Signer: s.alice, Store: store,
		Trust:   sshid.Trust{Own: []ssh.PublicKey{s.alice.PublicKey()}},
		Service: ServiceConf{URL: s.service.URL, CA: string(s.service.CA)}, Address: "login.example.org", Log: slog.New(slog.DiscardHandler),
		Slurm: slurm.Commands{Runner: runner(func(argv []string, _ string) (string, string, int) {
			if !slices.Equal(argv, []string{"id", "-un"}) {
				return "", "unexpected command", 1
			}
			return "alice\n", "", 0
		})},
	}
	programs := t.TempDir()
	for _, p := range []string{"sealbatch", "gocryptfs"} {
		check(t, os.WriteFile(filepath.Join(programs, p), []byte("program "+p), 0o755))
	}
	s.o = Options{
		ApplicationInfo: s.publish("image", manifest.KindImage, nil), DataInfo: []string{s.publish("data", manifest.KindDataset, nil)},
		Workdir: s.scratch, Args: []string{"--width=100", "a b"}, Tier: manifest.TierB2, Attest: keyapi.EvidenceSlurm,
		Valid: time.Hour, Recipients: []string{"age1x"},
		Programs: []string{filepath.Join(programs, "sealbatch"), filepath.Join(programs, "gocryptfs")}, Identity: "/home/alice/.ssh/id",
		Script: slurm.Script{JobName: "job", Nodes: 2, SealTime: time.Minute},
	}
	return s
}

// publish seals, ships and signs a small volume and returns its info file.
func (s *site) publish(name string, kind manifest.Kind, change func(*manifest.Policy)) string {
	s.t.Helper()
	return s.publishRequest(publish.Request{Kind: kind, Target: publish.Target{Name: name}}, change)
}

// publishRequest completes a request that says what is published.
func (s *site) publishRequest(r publish.Request, change func(*manifest.Policy)) string {
	s.t.Helper()
	name := r.Name
	input := filepath.Join(s.t.TempDir(), name)
	check(s.t, os.WriteFile(input, bytes.Repeat([]byte(name), 1000), 0o600))
	owner, err := age.GenerateX25519Identity()
	check(s.t, err)
	policy := keyservertest.Policy("alice")
	policy.PinVersion = true // sites that share a service publish by the same names
	if change != nil {
		change(&policy)
	}
	d := publish.Deps{FS: transfer.Local{}, Keys: s.service.Client(s.t, s.alice), Signer: s.alice}
	r.Input, r.Target = source.At(input), publish.Target{
		Name: name, SealedPath: filepath.Join(s.t.TempDir(), name+".sealed"), DirAtRest: s.scratch,
		Policy: policy, Recipients: []age.Recipient{owner.Recipient()}, ServiceURL: s.service.URL,
	}
	p, err := publish.Run(s.t.Context(), d, r)
	check(s.t, err)
	return p.InfoPath
}

// resign puts another info file in place, signed by k.
func (s *site) resign(file string, k ssh.Signer, change func(*manifest.Info)) {
	s.t.Helper()
	b, err := os.ReadFile(file)
	check(s.t, err)
	info, err := manifest.ParseInfo(b)
	check(s.t, err)
	change(&info)
	b, err = info.Encode()
	check(s.t, err)
	check(s.t, os.WriteFile(file, b, 0o600))
	check(s.t, os.WriteFile(file+".sig", keyservertest.Sign(s.t, k, manifest.NamespaceInfo, b), 0o600))
}

func (s *site) jobDirs() []string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.scratch, "sealbatch-*"))
	check(s.t, err)
	return found
}
