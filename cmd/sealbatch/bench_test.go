package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// benched is a key service in a process of its own, with its store and log on
// disk, and the verifier's key, so that evidence costs next to nothing.
type benched struct {
	*serviceProcess
	keyservertest.Service
	alice    ssh.Signer
	accounts []ed25519.PrivateKey // of others, mallory0 and on
}

func startBenched(b testing.TB, limits string, accounts int) *benched {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "keys")
	run := func(argv ...string) {
		if out, err := exec.Command("sealbatch", argv...).CombinedOutput(); err != nil {
			b.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	run("serve", "--init", dir, "--host", "127.0.0.1")
	s := &benched{alice: keyservertest.NewSigner(b)}
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	s.VerifierKey, s.Cluster = priv, "testcluster"
	conf := filepath.Join(dir, "server.conf")
	text, err := os.ReadFile(conf)
	if err != nil {
		b.Fatal(err)
	}
	text = fmt.Appendf(text, "[limits]\n"+limits+"[cluster testcluster]\n"+
		"verifier-url = https://127.0.0.1:1\nverifier-ca = ca.crt\nverifier-key = %s\nmunge-user = slurm\n",
		base64.StdEncoding.EncodeToString(pub))
	lines := "alice " + string(ssh.MarshalAuthorizedKey(s.alice.PublicKey()))
	for i := range accounts {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			b.Fatal(err)
		}
		s.accounts = append(s.accounts, key)
		lines += fmt.Sprintf("mallory%d %s", i, ssh.MarshalAuthorizedKey(sshSigner(key).PublicKey()))
	}
	err = errors.Join(os.WriteFile(conf, text, 0o600), os.WriteFile(filepath.Join(dir, "accounts"), []byte(lines), 0o600))
	if err != nil {
		b.Fatal(err)
	}
	if s.CA, err = os.ReadFile(filepath.Join(dir, "ca.crt")); err != nil {
		b.Fatal(err)
	}
	if s.serviceProcess, err = startService(b.TempDir(), conf); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.stop(); err != nil {
			b.Error(err)
		}
	})
	s.URL = "https://" + s.address
	who, err := s.Client(b, nil).Service(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	s.ID = who.ID
	if s.StatementKey, err = manifest.DecodeKey(who.StatementKey); err != nil {
		b.Fatal(err)
	}
	return s
}

func sshSigner(key ed25519.PrivateKey) ssh.Signer {
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		panic(err) // not of an Ed25519 key
	}
	return s
}

// cpu returns the time that the service has had of the processors.
func (s *benched) cpu(b testing.TB) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	user, err := strconv.Atoi(f[12]) // utime: field 14 of proc(5), which counts from 1; f[0] is the name's end, field 2
	if err != nil {
		b.Fatal(err)
	}
	system, err := strconv.Atoi(f[13])
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// BenchmarkKeyService has 1, 100 and 1,000 nodes ask for their keys at once,
// each from its start: a connection of its own, nonce, evidence, release. All
// get them, and once a limit is reached nobody does. The clients run on the
// same processors.
func BenchmarkKeyService(b *testing.B) {
	for _, nodes := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			for b.Loop() {
				benchNodes(b, nodes, max(nodes, 200))
			}
		})
	}
}

func benchNodes(b *testing.B, atOnce, total int) {
	s := startBenched(b, "rate-per-second = 100000\n", 0)
	p := keyservertest.Policy("alice")
	p.Nodes, p.Clusters, p.Releases = []string{"*"}, []string{s.Cluster}, total
	v := s.Deposit(b, s.alice, "data", manifest.KindDataset, p)
	m, signed := s.Manifest(b, func(m *manifest.Manifest) { m.Nodes = 2 * total }, v)
	digest := s.Register(b, s.alice, signed)
	release := func(node int) error {
		c, err := keyclient.New(keyclient.Options{URL: s.URL, CA: s.CA, ServiceID: s.ID, Timeout: time.Minute})
		if err != nil {
			return err
		}
		_, err = c.Release(b.Context(), keyclient.ReleaseRequest{Manifest: m, Digest: digest, Node: fmt.Sprint("n", node),
			Job: manifest.Job{Cluster: s.Cluster, ID: 7, ArrayTask: -1}, Attest: s.attest})
		return err
	}
	took := make([]time.Duration, total)
	var next, lost atomic.Int64
	var wg sync.WaitGroup
	cpu, start := s.cpu(b), time.Now()
	for range atOnce {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= total; i = int(next.Add(1)) {
				began := time.Now()
				if err := release(i); err != nil {
					lost.Add(1)
					b.Error(err)
				}
				took[i-1] = time.Since(began)
			}
		})
	}
	wg.Wait()
	wall := time.Since(start)
	cpu = s.cpu(b) - cpu
	beyond := 0
	for i := range 10 {
		if release(total+1+i) == nil {
			beyond++
		}
	}
	info, err := s.Client(b, s.alice).GetSecret(b.Context(), v.ID)
	if err != nil || info.Released != total || beyond > 0 || lost.Load() > 0 {
		b.Errorf("%d lost, %d released past the limit, %d counted of %d, %v", lost.Load(), beyond, info.Released, total, err)
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op") // of no meaning here
	b.ReportMetric(float64(total)/wall.Seconds(), "releases/s")
	b.ReportMetric(ms(took[total/2]), "p50-ms")
	b.ReportMetric(ms(took[total*99/100]), "p99-ms")
	b.ReportMetric(ms(cpu)/float64(total), "service-cpu-ms/release")
	b.ReportMetric(float64(lost.Load()), "lost")
	b.ReportMetric(float64(beyond), "past-limit")
}

// attest plays the verifier, for alice.
func (s *benched) attest(ctx context.Context, service string, c keyapi.Claim) (keyapi.Evidence, error) {
	return s.Attest("alice", 1000, nil, nil)(ctx, service, c)
}
