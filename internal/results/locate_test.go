package results

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// elsewhere is a site that is this machine, with a real key service, of which the finding machine remembers nothing.
type elsewhere struct {
	*testing.T
	service    *keyservertest.Service
	alice, bob ssh.Signer
	image      keyservertest.Volume
	scratch    string
	find       Finder
}

func newElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	e := &elsewhere{T: t, alice: keyservertest.NewSigner(t), bob: keyservertest.NewSigner(t)}
	e.service = keyservertest.Start(t, keyservertest.Options{
		Accounts: map[string]ssh.PublicKey{"alice": e.alice.PublicKey(), "bob": e.bob.PublicKey()}})
	p := keyservertest.Policy("alice")
	p.Users = append(p.Users, "bob")
	e.image = e.service.Deposit(t, e.alice, "image", manifest.KindImage, p)
	real, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	e.scratch = filepath.Join(real, "pfs")
	check(t, os.Mkdir(e.scratch, 0o700))
	client := e.service.Client(t, e.alice)
	said, err := client.Service(t.Context())
	check(t, err)
	e.find = Finder{FS: transfer.Local{}, Keys: client, Service: said, Trust: sshid.Trust{Own: []ssh.PublicKey{e.alice.PublicKey()}}}
	return e
}

// submitted is a job that lies at the site.
type submitted struct {
	m      manifest.Manifest
	signed []byte
	digest manifest.Digest
}

// submit signs and registers a job, and lays out its directory.
func (e *elsewhere) submit(who ssh.Signer, user string, change func(*manifest.Manifest)) submitted {
	e.Helper()
	m, b := e.service.Manifest(e, func(m *manifest.Manifest) {
		m.JobDir, m.User = jobdir.Path(e.scratch, m.Run), user
		if change != nil {
			change(m)
		}
	}, e.image)
	s := submitted{m, b, e.service.Register(e, who, b)}
	check(e.T, os.MkdirAll(filepath.Join(m.JobDir, jobdir.NodesDir), 0o700))
	e.lay(m.JobDir, b, who)
	return s
}

// lay puts a signed manifest into a directory, over what is there.
func (e *elsewhere) lay(dir string, b []byte, who ssh.Signer) {
	e.Helper()
	check(e.T, os.WriteFile(filepath.Join(dir, jobdir.ManifestName), b, 0o600))
	sig := keyservertest.Sign(e, who, manifest.NamespaceManifest, b)
	check(e.T, os.WriteFile(filepath.Join(dir, jobdir.SignatureName), sig, 0o600))
}

// run has a job of that number ask for its keys on node cn1, which leaves its papers.
func (e *elsewhere) run(s submitted, id uint32, user string) {
	e.Helper()
	job := manifest.Job{Cluster: e.service.Cluster, ID: id, ArrayTask: -1}
	got, err := e.service.Client(e, nil).Release(e.Context(), keyclient.ReleaseRequest{Manifest: s.m, Digest: s.digest, Job: job,
		Node: "cn1", Attest: e.service.Attest(user, 1000, nil, nil)})
	check(e.T, err)
	receipt, err := manifest.SignJWS(manifest.TypeReceipt, got.S,
		manifest.Receipt{Run: s.m.Run, Manifest: s.digest, Job: job, Node: "cn1", Tier: s.m.Tier, Reason: "integrity", Exit: -1})
	check(e.T, err)
	dir := jobdir.NodePath(s.m.JobDir, "cn1")
	check(e.T, os.MkdirAll(dir, 0o700))
	check(e.T, os.WriteFile(filepath.Join(dir, jobdir.StatementName), []byte(got.StatementJWS), 0o600))
	check(e.T, os.WriteFile(filepath.Join(dir, jobdir.ReceiptName), []byte(receipt), 0o600))
}

// TestFindJob: a job that was submitted elsewhere is found by its number and by its directory, and what is made of it is
// what its submitter would remember.
func TestFindJob(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	s := e.submit(e.alice, "alice", func(m *manifest.Manifest) { m.Nodes, m.MinNodes = 4, 2 })
	check(t, os.Symlink("pfs", filepath.Join(filepath.Dir(e.scratch), "scratch"))) // as sites have it
	byLink := filepath.Join(filepath.Dir(e.scratch), "scratch", filepath.Base(s.m.JobDir))

	if _, err := e.find.Job(t.Context(), 7); !errors.Is(err, ErrUnknownJob) {
		t.Errorf("a job that has not begun: %v", err)
	}
	if got, err := e.find.Dir(t.Context(), s.m.JobDir); err != nil || got.Record.JobID != "" || !got.Confirmed {
		t.Errorf("by its directory, before it has begun: %+v, %v", got, err)
	}
	e.run(s, 7, "alice")
	want := submission.Record{Run: s.m.Run, Manifest: s.digest, JobID: "7", JobDir: s.m.JobDir, RealDir: s.m.JobDir,
		LogFile: s.m.JobDir + "/job.log", Service: s.m.Service, Tier: s.m.Tier, Attest: "slurm", Nodes: 4, MinNodes: 2,
		Volumes: []string{e.image.ID}, Submitted: s.m.Created, Found: true}
	for how, find := range map[string]func() (Found, error){
		"its number":           func() (Found, error) { return e.find.Job(t.Context(), 7) },
		"its directory":        func() (Found, error) { return e.find.Dir(t.Context(), s.m.JobDir) },
		"its directory/":       func() (Found, error) { return e.find.Dir(t.Context(), s.m.JobDir+"/") },
		"the site's own links": func() (Found, error) { return e.find.Dir(t.Context(), byLink) },
	} {
		got, err := find()
		if err != nil || !got.Confirmed || got.Signer != sshid.OwnPrincipal || fmt.Sprint(got.Record) != fmt.Sprint(want) {
			t.Errorf("by %s: %+v, %v; want %+v", how, got, err, want)
		}
		nodes, err := Fetch(t.Context(), Deps{FS: transfer.Local{}}, got.Record, filepath.Join(t.TempDir(), "out"))
		if err != nil || len(nodes) != 1 || nodes[0].Err != nil || nodes[0].Receipt.Reason != "integrity" {
			t.Errorf("by %s: %+v, %v", how, nodes, err)
		}
	}
}

// TestFindByTrust: whose manifest counts, and as whose it is told.
func TestFindByTrust(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	s := e.submit(e.bob, "bob", nil)
	e.run(s, 7, "bob")
	e.find.Trust.Allowed = []sshid.AllowedSigner{{Principals: []string{"bob"}, Namespaces: []string{manifest.NamespaceInfo},
		Key: e.bob.PublicKey()}}
	if _, err := e.find.Dir(t.Context(), s.m.JobDir); !errors.Is(err, sshid.ErrUntrusted) || fault.ClassOf(err) != fault.Integrity {
		t.Errorf("of one who may sign info files: %v", err)
	}
	e.find.Trust.Allowed[0].Namespaces = []string{manifest.NamespaceManifest}
	got, err := e.find.Dir(t.Context(), s.m.JobDir)
	if err != nil || got.Confirmed || got.Signer != "bob" || got.Record.JobID != "7" {
		t.Errorf("of one who may submit jobs: %+v, %v", got, err)
	}
	if _, err := e.find.Job(t.Context(), 7); !errors.Is(err, ErrUnknownJob) {
		t.Errorf("another account's job, by its number: %v", err)
	}

	second := keyservertest.NewSigner(t) // of alice's other machine, which is given up
	e.service.Enrol(t, "alice", second.PublicKey())
	e.image = e.service.Deposit(t, e.alice, "image", manifest.KindImage, keyservertest.Policy("alice"))
	s = e.submit(second, "alice", nil)
	e.run(s, 8, "alice")
	line := sshid.AllowedSigner{Principals: []string{"alice"}, Key: second.PublicKey(), ValidBefore: s.m.Created.Add(time.Second)}
	e.find.Trust.Others = func() ([]sshid.AllowedSigner, error) { return []sshid.AllowedSigner{line}, nil }
	for _, when := range []string{"retired since", "retired before", "removed"} {
		got, err := e.find.Job(t.Context(), 8)
		if good := when == "retired since"; good != (err == nil) || good && (got.Signer != sshid.OtherPrincipal || !got.Confirmed) {
			t.Errorf("by another key of one's own, %s: %+v, %v", when, got, err)
		}
		if line.ValidBefore = s.m.Created.Add(-time.Second); when == "retired before" {
			line.Key = e.alice.PublicKey()
		}
	}
}

// TestNothingElseIsFound: whoever can write the site's storage has nothing else taken for a job that was asked for.
func TestNothingElseIsFound(t *testing.T) {
	t.Parallel()
	for name, attack := range map[string]func(e *elsewhere, older, asked submitted){
		"another's manifest": func(e *elsewhere, _, asked submitted) {
			_, b := e.service.Manifest(e, func(m *manifest.Manifest) {
				m.JobDir, m.User, m.Run = asked.m.JobDir, "bob", asked.m.Run
			}, e.image)
			e.service.Register(e, e.bob, b)
			e.lay(asked.m.JobDir, b, e.bob)
		},
		"an older manifest of one's own": func(e *elsewhere, older, asked submitted) {
			e.lay(asked.m.JobDir, older.signed, e.alice)
		},
		"an older job in its place": func(e *elsewhere, older, asked submitted) {
			check(e.T, os.Rename(asked.m.JobDir, asked.m.JobDir+".away"))
			check(e.T, os.Rename(older.m.JobDir, asked.m.JobDir))
		},
		"a link to an older job": func(e *elsewhere, older, asked submitted) {
			check(e.T, os.Rename(asked.m.JobDir, asked.m.JobDir+".away"))
			check(e.T, os.Symlink(older.m.JobDir, asked.m.JobDir))
		},
		"a link to itself elsewhere": func(e *elsewhere, _, asked submitted) {
			check(e.T, os.Rename(asked.m.JobDir, asked.m.JobDir+".away"))
			check(e.T, os.Symlink(asked.m.JobDir+".away", asked.m.JobDir))
		},
		"a manifest that is a link to an older one": func(e *elsewhere, older, asked submitted) {
			for _, name := range []string{jobdir.ManifestName, jobdir.SignatureName} {
				check(e.T, os.Remove(filepath.Join(asked.m.JobDir, name)))
				check(e.T, os.Symlink(filepath.Join(older.m.JobDir, name), filepath.Join(asked.m.JobDir, name)))
			}
		},
		"a changed manifest": func(e *elsewhere, _, asked submitted) {
			b := strings.Replace(string(asked.signed), `"nodes": 1`, `"nodes": 2`, 1)
			check(e.T, os.WriteFile(filepath.Join(asked.m.JobDir, jobdir.ManifestName), []byte(b), 0o600))
		},
		"a signature for another purpose": func(e *elsewhere, _, asked submitted) {
			sig := keyservertest.Sign(e, e.alice, manifest.NamespaceInfo, asked.signed)
			check(e.T, os.WriteFile(filepath.Join(asked.m.JobDir, jobdir.SignatureName), sig, 0o600))
		},
		"no signature": func(e *elsewhere, _, asked submitted) {
			check(e.T, os.Remove(filepath.Join(asked.m.JobDir, jobdir.SignatureName)))
		},
		"a manifest without end": func(e *elsewhere, _, asked submitted) {
			check(e.T, os.Truncate(filepath.Join(asked.m.JobDir, jobdir.ManifestName), 1<<40))
		},
		"a device": func(e *elsewhere, _, asked submitted) {
			check(e.T, os.Remove(filepath.Join(asked.m.JobDir, jobdir.ManifestName)))
			check(e.T, os.Symlink("/dev/zero", filepath.Join(asked.m.JobDir, jobdir.ManifestName)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newElsewhere(t)
			older, asked := e.submit(e.alice, "alice", nil), e.submit(e.alice, "alice", nil)
			e.run(asked, 8, "alice")
			attack(e, older, asked)
			for how, find := range map[string]func() (Found, error){
				"number":    func() (Found, error) { return e.find.Job(t.Context(), 8) },
				"directory": func() (Found, error) { return e.find.Dir(t.Context(), asked.m.JobDir) },
			} {
				got, err := find()
				if fault.ClassOf(err) != fault.Integrity {
					t.Errorf("by its %s: %+v, %v", how, got, err)
				}
			}
		})
	}
}

// TestPapersOfAnotherRun: papers of another run do not pass in a directory that is genuine.
func TestPapersOfAnotherRun(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	older := e.submit(e.alice, "alice", nil)
	e.run(older, 7, "alice")
	e.image = e.service.Deposit(e, e.alice, "image", manifest.KindImage, keyservertest.Policy("alice"))
	asked := e.submit(e.alice, "alice", nil)
	e.run(asked, 8, "alice")
	check(t, os.RemoveAll(jobdir.NodePath(asked.m.JobDir, "cn1")))
	check(t, os.Rename(jobdir.NodePath(older.m.JobDir, "cn1"), jobdir.NodePath(asked.m.JobDir, "cn1")))
	for _, forgotten := range []bool{false, true} {
		if forgotten {
			e.find.Keys = registry{forgotten: true}
		}
		got, err := e.find.Dir(t.Context(), asked.m.JobDir)
		check(t, err)
		if want := map[bool]string{false: "8", true: ""}[forgotten]; got.Record.JobID != want {
			t.Errorf("forgotten %t: job %q, want %q", forgotten, got.Record.JobID, want)
		}
		nodes, err := Fetch(t.Context(), Deps{FS: transfer.Local{}}, got.Record, filepath.Join(t.TempDir(), "out"))
		if err != nil || len(nodes) != 1 || !errors.Is(nodes[0].Err, jobdir.ErrNotOurs) {
			t.Errorf("forgotten %t: %+v, %v", forgotten, nodes, err)
		}
	}
}

// registry answers as a key service might.
type registry struct {
	list      keyapi.ManifestList
	entry     keyapi.ManifestEntry
	forgotten bool
}

func (r registry) ManifestsOf(context.Context, uint32, string) (keyapi.ManifestList, error) {
	return r.list, nil
}

func (r registry) Manifest(context.Context, manifest.Digest) (keyapi.ManifestEntry, error) {
	if r.forgotten {
		return keyapi.ManifestEntry{}, keyclient.ErrNotFound
	}
	return r.entry, nil
}

// TestFindElsewise: what the key service has forgotten, says otherwise, or has twice.
func TestFindElsewise(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	s := e.submit(e.alice, "alice", nil)
	e.run(s, 7, "alice")
	entry, err := e.find.Keys.Manifest(t.Context(), s.digest)
	check(t, err)

	e.find.Keys = registry{forgotten: true}
	if got, err := e.find.Dir(t.Context(), s.m.JobDir); err != nil || got.Confirmed || got.Record.JobID != "7" {
		t.Errorf("forgotten: %+v, %v", got, err)
	}
	other := entry
	other.JobDir += "x"
	e.find.Keys = registry{entry: other}
	if got, err := e.find.Dir(t.Context(), s.m.JobDir); !errors.Is(err, keyclient.ErrAnswer) {
		t.Errorf("another directory: %+v, %v", got, err)
	}
	second := entry
	second.JobDir, second.Job = "/scratch/second", &manifest.Job{Cluster: "other", ID: 7, ArrayTask: -1}
	second.Registered = entry.Registered.Add(-1000 * time.Hour)
	e.find.Keys = registry{list: keyapi.ManifestList{Manifests: []keyapi.ManifestEntry{entry, second}}}
	_, err = e.find.Job(t.Context(), 7)
	if !errors.Is(err, submission.ErrAmbiguous) || !strings.Contains(err.Error(), s.m.JobDir+" on "+e.service.Cluster) ||
		!strings.Contains(err.Error(), "/scratch/second on other, registered on "+second.Registered.Local().Format(time.DateOnly)) {
		t.Errorf("two of one number: %v", err)
	}
	e.find.Service.ID = "another"
	if _, err := e.find.Dir(t.Context(), s.m.JobDir); fault.ClassOf(err) != fault.Config {
		t.Errorf("of another service: %v", err)
	}
	if _, err := e.find.Dir(t.Context(), e.scratch+"/none"); fault.ClassOf(err) != fault.Empty {
		t.Errorf("not there: %v", err)
	}
}
