package jobprep

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/evidence/builtin"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
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

// runner answers as Slurm's commands would.
type runner func(argv []string, stdin string) (stdout, stderr string, exit int)

// Run implements slurm.Runner.
func (r runner) Run(_ context.Context, argv []string, stdin io.Reader) ([]byte, []byte, int, error) {
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
	input := filepath.Join(s.t.TempDir(), name)
	check(s.t, os.WriteFile(input, bytes.Repeat([]byte(name), 1000), 0o600))
	owner, err := age.GenerateX25519Identity()
	check(s.t, err)
	policy := keyservertest.Policy("alice")
	if change != nil {
		change(&policy)
	}
	d := publish.Deps{FS: transfer.Local{}, Keys: s.service.Client(s.t, s.alice), Signer: s.alice}
	p, err := publish.Run(s.t.Context(), d, publish.Request{Input: source.At(input), Kind: kind, Target: publish.Target{
		Name: name, SealedPath: filepath.Join(s.t.TempDir(), name+".sealed"), DirAtRest: s.scratch,
		Policy: policy, Recipients: []age.Recipient{owner.Recipient()}, ServiceURL: s.service.URL,
	}})
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

func TestPrepareAndSubmit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	scripts := t.TempDir()
	for name, text := range map[string]string{"20-b.sh": "b", "10-a.sh": "a", "run.sh": "HPCS's driver", "notes": "x"} {
		check(t, os.WriteFile(filepath.Join(scripts, name), []byte(text), 0o644))
	}
	s.o.InputScripts = scripts
	p, err := Prepare(t.Context(), s.d, s.o)
	if err != nil {
		t.Fatal(err)
	}
	dir := p.Record.JobDir
	if dirs := s.jobDirs(); len(dirs) != 1 || dirs[0] != dir {
		t.Errorf("job directories: %q, recorded %q", dirs, dir)
	}
	for name, mode := range map[string]fs.FileMode{
		"": fs.ModeDir | 0o700, "bin": fs.ModeDir | 0o700, "bin/sealbatch": 0o700, "bin/gocryptfs": 0o700, "nodes": fs.ModeDir | 0o700,
		"manifest.json": 0o600, "manifest.json.sig": 0o600, "job.sbatch": 0o600, "scripts/input/10-a.sh": 0o600, "scripts/input/20-b.sh": 0o600,
	} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: mode %v, want %v; %v", name, st.Mode(), mode, err)
		}
	}
	for _, name := range []string{"tokens", "scripts/input/run.sh", "scripts/input/notes"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	s.checkManifest(p)
	s.checkScript(p)

	var got string
	s.d.Slurm = slurm.Commands{Runner: runner(func(argv []string, stdin string) (string, string, int) {
		got = stdin
		return "4711\n", "", 0
	})}
	rec, err := Submit(t.Context(), s.d, p)
	if err != nil || rec.JobID != "4711" || got != string(p.Script) {
		t.Errorf("Submit = %+v, %v", rec, err)
	}
	kept, err := s.d.Store.Find("4711")
	if err != nil || kept.Run != p.Record.Run || kept.Manifest != p.Record.Manifest || kept.Address != "login.example.org" ||
		kept.Nodes != 2 || kept.Tier != manifest.TierB2 || kept.Identity != "/home/alice/.ssh/id" ||
		kept.LogFile != filepath.Join(dir, "job.log") {
		t.Errorf("record: %+v, %v", kept, err)
	}
}

// checkManifest holds what was signed and registered against what was asked for.
func (s *site) checkManifest(p Prepared) {
	t := s.t
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.Record.JobDir, "manifest.json"))
	check(t, err)
	sig, err := os.ReadFile(filepath.Join(p.Record.JobDir, "manifest.json.sig"))
	check(t, err)
	if k, err := sshid.VerifySSH(manifest.NamespaceManifest, b, sig); err != nil || !bytes.Equal(k.Marshal(), s.alice.PublicKey().Marshal()) {
		t.Errorf("the manifest's signature: %v", err)
	}
	m, digest, err := manifest.Parse(b)
	if err != nil || digest != p.Record.Manifest {
		t.Fatalf("manifest: digest %s, recorded %s, %v", digest, p.Record.Manifest, err)
	}
	if m.Volumes[0].Name != "image" || len(m.Inputs()) != 1 || m.Inputs()[0].Name != "data" ||
		m.Inputs()[0].Path != filepath.Join(s.scratch, "data.sealed") ||
		m.User != "alice" || m.Nodes != 2 || m.SealSeconds != 60 || m.Attest.Type != keyapi.EvidenceSlurm ||
		!strings.Contains(string(m.Attest.Parameters), `"https://verifier.example.org:8444"`) ||
		m.Service.ID != s.service.ID {
		t.Errorf("manifest: %+v", m)
	}
	want := []manifest.FileRef{{Name: "10-a.sh", Digest: manifest.DigestOf([]byte("a")), Size: 1},
		{Name: "20-b.sh", Digest: manifest.DigestOf([]byte("b")), Size: 1}}
	if len(m.InputScripts) != 2 || m.InputScripts[0] != want[0] || m.InputScripts[1] != want[1] {
		t.Errorf("scripts: %+v", m.InputScripts)
	}
	if bytes.Contains(b, []byte("--width")) {
		t.Error("the manifest on the site's storage shows the application's arguments")
	}
	other, err := manifest.NewPrivate(nil, nil).Encode()
	check(t, err)
	if _, err := s.d.Keys.RegisterManifest(t.Context(), b, sig, other); !errors.Is(err, keyclient.ErrBadRequest) {
		t.Errorf("registered with another private part: %v", err)
	}
}

// checkScript reads the batch script back.
func (s *site) checkScript(p Prepared) {
	t := s.t
	t.Helper()
	onSite, err := os.ReadFile(p.ScriptPath)
	if err != nil || !bytes.Equal(onSite, p.Script) {
		t.Errorf("the script on the site differs: %v", err)
	}
	text := string(p.Script)
	for _, want := range []string{"#SBATCH --nodes=2\n", p.Record.Manifest.String(), "--job-dir\n  " + p.Record.JobDir + "\n", "node-run",
		filepath.Join(p.Record.JobDir, "bin/sealbatch"), manifest.DigestOf([]byte("program gocryptfs")).Hex(),
		"#SBATCH --output=" + p.Record.LogFile} {
		if !strings.Contains(text, want) {
			t.Errorf("the script does not hold %q:\n%s", want, text)
		}
	}
	for _, secret := range []string{"--width", "data.sealed", "a b"} {
		if strings.Contains(text, secret) {
			t.Errorf("the script, which lies in Slurm's spool, holds %q", secret)
		}
	}
}

func TestPrepareWithTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.o.Tier, s.o.Attest = manifest.TierC, keyapi.EvidenceToken
	p, err := Prepare(t.Context(), s.d, s.o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(p.Record.JobDir, "tokens"))
	tokens := strings.Fields(string(b))
	if err != nil || len(tokens) != 2 || tokens[0] == tokens[1] {
		t.Errorf("tokens for two nodes: %d, %v", len(tokens), err)
	}
	if st, err := os.Stat(filepath.Join(p.Record.JobDir, "tokens")); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode of the tokens: %v, %v", st.Mode(), err)
	}
	if strings.Contains(string(p.Script), tokens[0]) {
		t.Errorf("the script never has the tokens:\n%s", p.Script)
	}
}

// TestScriptsFromHere: a directory that the site has not may lie on this machine.
func TestScriptsFromHere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	here := t.TempDir()
	check(t, os.WriteFile(filepath.Join(here, "check.sh"), []byte("here"), 0o644))
	s.d.FS = hiding{transfer.Local{}, here}
	s.o.OutputScripts = here
	p, err := Prepare(t.Context(), s.d, s.o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(p.Record.JobDir, "scripts/output/check.sh"))
	if err != nil || string(b) != "here" {
		t.Errorf("shipped script: %q, %v", b, err)
	}
}

// hiding is a site that has not got one directory.
type hiding struct {
	transfer.Local
	dir string
}

func (h hiding) Stat(path string) (fs.FileInfo, error) {
	if path == h.dir {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
	}
	return h.Local.Stat(path)
}

func (h hiding) ReadDir(path string) ([]fs.FileInfo, error) {
	if path == h.dir {
		return nil, errors.New("looked for on the site")
	}
	return h.Local.ReadDir(path)
}

// TestFailureLeavesNothing breaks off at each step that writes.
func TestFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for _, name := range []string{"bin/gocryptfs", "manifest.json", "job.sbatch", "scripts/input/a.sh"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shared.site(t)
			s.o.InputScripts = t.TempDir()
			check(t, os.WriteFile(filepath.Join(s.o.InputScripts, "a.sh"), nil, 0o600))
			s.d.FS = full{transfer.Local{}, name}
			if _, err := Prepare(t.Context(), s.d, s.o); !errors.Is(err, errFull) {
				t.Errorf("Prepare: %v", err)
			}
			s.nothingLeft()
		})
	}
	t.Run("record", func(t *testing.T) {
		t.Parallel()
		s := shared.site(t)
		check(t, os.WriteFile(filepath.Join(s.state, "jobs"), nil, 0o600)) // where the store's directory should be
		if _, err := Prepare(t.Context(), s.d, s.o); err == nil {
			t.Error("a job that cannot be remembered was prepared")
		}
		if dirs := s.jobDirs(); len(dirs) > 0 {
			t.Errorf("left behind: %q", dirs)
		}
	})
}

func (s *site) nothingLeft() {
	s.t.Helper()
	if dirs := s.jobDirs(); len(dirs) > 0 {
		s.t.Errorf("left behind: %q", dirs)
	}
	if all, err := s.d.Store.List(); err != nil || len(all) > 0 {
		s.t.Errorf("recorded: %v, %v", all, err)
	}
}

var errFull = errors.New("no space left on device")

// full is a site on which one file cannot be written.
type full struct {
	transfer.Local
	suffix string
}

func (f full) Create(path string, perm fs.FileMode) (transfer.WriteFile, error) {
	if strings.HasSuffix(strings.TrimSuffix(path, transfer.PartialSuffix), f.suffix) {
		return nil, errFull
	}
	return f.Local.Create(path, perm)
}

// TestPrepareRefuses changes one thing at a time; nothing is laid out or remembered.
func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	stranger, shared := keyservertest.NewSigner(t), newService(t)
	for name, c := range map[string]struct {
		code fault.Class
		want string
		do   func(s *site)
	}{
		"no info file":       {fault.Other, "no such file", func(s *site) { s.o.DataInfo[0] += "x" }},
		"unsigned":           {fault.Integrity, "not signed", func(s *site) { check(s.t, os.Remove(s.o.DataInfo[0]+".sig")) }},
		"image unsigned":     {fault.Integrity, "not signed", func(s *site) { check(s.t, os.Remove(s.o.ApplicationInfo+".sig")) }},
		"signed by stranger": {fault.Integrity, "", func(s *site) { s.resign(s.o.DataInfo[0], stranger, func(*manifest.Info) {}) }},
		"altered": {fault.Integrity, "did not sign", func(s *site) {
			b, err := os.ReadFile(s.o.DataInfo[0])
			check(s.t, err)
			check(s.t, os.WriteFile(s.o.DataInfo[0], bytes.Replace(b, []byte("alice"), []byte("mallo"), 1), 0o600))
		}},
		"another file's signature": {fault.Integrity, "", func(s *site) {
			b, err := os.ReadFile(s.o.ApplicationInfo + ".sig")
			check(s.t, err)
			check(s.t, os.WriteFile(s.o.DataInfo[0]+".sig", b, 0o600))
		}},
		"signed for another purpose": {fault.Integrity, "", func(s *site) {
			b, err := os.ReadFile(s.o.DataInfo[0])
			check(s.t, err)
			check(s.t, os.WriteFile(s.o.DataInfo[0]+".sig", keyservertest.Sign(s.t, s.alice, manifest.NamespaceManifest, b), 0o600))
		}},
		"HPCS's info file": {fault.Integrity, "HPCS", func(s *site) {
			check(s.t, os.Remove(s.o.DataInfo[0]+".sig"))
			check(s.t, os.WriteFile(s.o.DataInfo[0], []byte("info:\n  path_at_rest: /s/x\n  secret_path: kv/x\n  access_role: r\n"), 0o600))
		}},
		"too large":  {fault.Other, "larger than", func(s *site) { check(s.t, os.Truncate(s.o.DataInfo[0], maxSmall+1)) }},
		"wrong kind": {fault.Usage, "describes a dataset, not an image", func(s *site) { s.o.ApplicationInfo = s.o.DataInfo[0] }},
		"expired": {fault.Key, "policy expired", func(s *site) {
			s.resign(s.o.DataInfo[0], s.alice, func(i *manifest.Info) { i.Policy.Expires = time.Now().Add(-time.Hour).UTC() })
		}},
		"volume is gone": {fault.Other, "no such file", func(s *site) { check(s.t, os.Remove(filepath.Join(s.scratch, "data.sealed"))) }},
		"volume cut": {fault.Integrity, "bytes, not the",
			func(s *site) { check(s.t, os.Truncate(filepath.Join(s.scratch, "data.sealed"), 5000)) }},
		"volume replaced": {fault.Integrity, "", func(s *site) { s.replaceVolume() }},
		"another digest": {fault.Integrity, "not the volume that its owner signed",
			func(s *site) { s.resign(s.o.DataInfo[0], s.alice, func(i *manifest.Info) { i.Digest[0] ^= 1 }) }},
		"host binds":         {fault.Key, "does not permit", func(s *site) { s.o.Flags = []string{"--bind", "/proj:/proj"} }},
		"forbidden flag":     {fault.Usage, "-flags", func(s *site) { s.o.Flags = []string{"--keep-privs"} }},
		"damaged argument":   {fault.Usage, "U+FFFD", func(s *site) { s.o.Args = []string{"gen\ufffdme"} }},
		"invalid UTF-8":      {fault.Usage, "UTF-8", func(s *site) { s.o.Args = []string{"\x80\xff"} }},
		"two equal names":    {fault.Usage, "two inputs are named", func(s *site) { s.o.DataInfo = append(s.o.DataInfo, s.o.DataInfo[0]) }},
		"scripts nowhere":    {fault.Usage, "verification scripts", func(s *site) { s.o.InputScripts = s.scratch + "/nowhere" }},
		"scripts are a file": {fault.Usage, "not a directory", func(s *site) { s.o.InputScripts = s.o.DataInfo[0] }},
		"no program":         {fault.Other, "program for the nodes", func(s *site) { s.o.Programs[1] += "x" }},
		"no work directory":  {fault.Other, "work directory", func(s *site) { s.o.Workdir += "/nowhere" }},
		"open work directory": {fault.SSH, "can be changed by anyone", func(s *site) {
			s.o.Workdir = filepath.Join(s.scratch, "open")
			check(s.t, os.Mkdir(s.o.Workdir, 0o700))
			check(s.t, os.Chmod(s.o.Workdir, 0o777))
		}},
		"unknown cluster": {fault.Config, "no verifier of cluster", func(s *site) { s.o.Cluster = "elsewhere" }},
		"bad time limit":  {fault.Usage, "", func(s *site) { s.o.Script.Time = "soon" }},
		"not enrolled":    {fault.Key, "", func(s *site) { s.d.Keys = s.service.Client(s.t, stranger) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shared.site(t)
			c.do(s)
			_, err := Prepare(t.Context(), s.d, s.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Prepare: %v; want %q", err, c.want)
			}
			if fault.ClassOf(err) != c.code {
				t.Errorf("class %s for %q, want %d", fault.ClassOf(err), err, c.code)
			}
			s.nothingLeft()
		})
	}
}

// TestBrokenOffPublication: a newer version's sealed file, or that and its signature, beside the older
// info file is what a killed data-prep leaves.
func TestBrokenOffPublication(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for name, leave := range map[string]func(s *site){
		"sealed file": func(s *site) { s.replaceVolume() },
		"signature": func(s *site) {
			b, err := os.ReadFile(s.o.DataInfo[0])
			check(s.t, err)
			s.resign(s.o.DataInfo[0], s.alice, func(i *manifest.Info) { i.Digest[0] ^= 1 })
			check(s.t, os.WriteFile(s.o.DataInfo[0], b, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shared.site(t)
			leave(s)
			_, err := Prepare(t.Context(), s.d, s.o)
			if fault.ClassOf(err) != fault.Integrity ||
				!strings.Contains(fault.Hint(err), "broke off while it published a newer version, the same command again puts that right") {
				t.Errorf("%v; hint: %s", err, fault.Hint(err))
			}
		})
	}
}

// replaceVolume puts a volume of the same size, by the same owner, in the place of data.sealed.
func (s *site) replaceVolume() {
	s.t.Helper()
	b, err := os.ReadFile(strings.TrimSuffix(s.publish("atad", manifest.KindDataset, nil), publish.InfoSuffix))
	check(s.t, err)
	check(s.t, os.WriteFile(filepath.Join(s.scratch, "data.sealed"), b, 0o600))
}

// TestHostBindsPermitted: with the owners' permission they pass.
func TestHostBindsPermitted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	permit := func(p *manifest.Policy) { p.HostBinds = true }
	s.o.Flags = []string{"--bind", "/proj:/proj"}
	s.o.ApplicationInfo, s.o.DataInfo = s.publish("image2", manifest.KindImage, permit),
		[]string{s.publish("data2", manifest.KindDataset, permit)}
	if _, err := Prepare(t.Context(), s.d, s.o); err != nil {
		t.Errorf("Prepare: %v", err)
	}
}

// TestSubmitFails keeps what lies ready, under its run.
func TestSubmitFails(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, err := Prepare(t.Context(), s.d, s.o)
	if err != nil {
		t.Fatal(err)
	}
	s.d.Slurm = slurm.Commands{Runner: runner(func([]string, string) (string, string, int) { return "", "no such partition", 1 })}
	if _, err := Submit(t.Context(), s.d, p); !errors.Is(err, slurm.ErrSlurm) {
		t.Errorf("Submit: %v", err)
	}
	if rec, err := s.d.Store.Find(p.Record.Run); err != nil || rec.JobID != "" {
		t.Errorf("record: %+v, %v", rec, err)
	}
}
