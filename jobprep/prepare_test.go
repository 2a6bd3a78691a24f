package jobprep

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

func TestPrepareAndSubmit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	scripts := t.TempDir()
	check(t, os.Mkdir(filepath.Join(scripts, "sub"), 0o755))
	for name, text := range map[string]string{"20-b.sh": "b", "10-a.sh": "a", "run.sh": "HPCS's driver", "notes": "x", "sub/c.sh": "c"} {
		mode := fs.FileMode(0o755)
		if name == "notes" {
			mode = 0o644
		}
		check(t, os.WriteFile(filepath.Join(scripts, name), []byte(text), mode))
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
		"scripts/input/sub": fs.ModeDir | 0o700, "scripts/input/sub/c.sh": 0o600, "scripts/input/notes": 0o600,
	} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: mode %v, want %v; %v", name, st.Mode(), mode, err)
		}
	}
	for _, name := range []string{"tokens", "tools"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	s.checkManifest(p)
	s.checkScript(p)

	var got string
	s.d.Slurm = slurm.Commands{Runner: runner(func(argv []string, stdin string) (string, string, int) {
		if !slices.Contains(argv, "sbatch") {
			return "", "squeue has no answer", 1
		}
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
	var names, run []string
	for _, r := range m.InputScripts {
		if names = append(names, r.Name); r.Check() {
			run = append(run, r.Name)
		}
	}
	if !slices.Equal(names, []string{"10-a.sh", "20-b.sh", "notes", "run.sh", "sub/c.sh"}) ||
		!slices.Equal(run, []string{"10-a.sh", "20-b.sh", "sub/c.sh"}) || m.InputScripts[4].Digest != manifest.DigestOf([]byte("c")) {
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
		" bin/sealbatch\n", manifest.DigestOf([]byte("program gocryptfs")).Hex(),
		"#SBATCH --comment=" + filepath.Base(p.Record.JobDir) + "\n", "#SBATCH --chdir=/\n", "#SBATCH --output=/dev/null\n",
		">>job.log ", p.Record.Manifest.Hex() + "  manifest.json"} {
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

// TestPrepareWithTokens: one-time tokens are in what sbatch gets, and in no file on
// the site or of the submitter's, unless the script is left to be submitted by hand.
func TestPrepareWithTokens(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for _, byHand := range []bool{false, true} {
		s := shared.site(t)
		s.o.Tier, s.o.Attest, s.o.ByHand = manifest.TierC, keyapi.EvidenceToken, byHand
		p, err := Prepare(t.Context(), s.d, s.o)
		check(t, err)
		_, input, _ := strings.Cut(string(p.Script), "builtin printf '%s\\n' \\\n  ")
		input, _, _ = strings.Cut(input, " |\n")
		tokens := strings.Split(input, " \\\n  ")
		if len(tokens) != 2 || tokens[0] == tokens[1] || len(tokens[0]) < 40 || p.Credentials != "one-time tokens" {
			t.Fatalf("%d tokens for two nodes", len(tokens))
		}
		var found []string
		for _, dir := range []string{s.scratch, s.state} {
			check(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil || !e.Type().IsRegular() {
					return err
				}
				b, err := os.ReadFile(path)
				if bytes.Contains(b, []byte(tokens[0])) || bytes.Contains(b, []byte(tokens[1])) {
					found = append(found, path)
				}
				return err
			}))
		}
		if byHand != slices.Equal(found, []string{p.ScriptPath}) || !byHand && len(found) > 0 {
			t.Errorf("by hand: %v; tokens are in %q", byHand, found)
		}
		if st, err := os.Stat(p.ScriptPath); err != nil || st.Mode() != 0o600 {
			t.Errorf("mode of the script: %v, %v", st.Mode(), err)
		}
	}
}

// TestScriptsFromHere: a directory that the site has not may lie on this machine.
func TestScriptsFromHere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	here := t.TempDir()
	check(t, os.WriteFile(filepath.Join(here, "check.sh"), []byte("here"), 0o755))
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
