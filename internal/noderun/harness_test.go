package noderun

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

const (
	fakeImage = "stand-in for an image\n"
	testNode  = "cn1"
)

// testJob is a job that is ready to run: what a submitter would have put on the
// shared storage, and what the key service would know.
type testJob struct {
	t        *testing.T
	dir      string // JobDir
	self     string
	host     string // bound to /host in the container; holds the pipe "ready"
	m        manifest.Manifest
	in       supervisorInput
	private  manifest.Private
	identity *age.X25519Identity
	service  ed25519.PrivateKey
	log      bytes.Buffer
	env      []string
	ended    chan struct{} // closed when the supervisor has
}

// supervisorInput reaches the supervisor's process on standard input: the keys
// never lie anywhere.
type supervisorInput struct {
	Options Options
	Keys    []keyapi.BundleKey
	Service []byte // the key service's statement key
	Tier    manifest.Tier
	Refuse  string // "attestation" or "key"
	Private []byte
}

// supervisorMain is a supervisor's process.
func supervisorMain() {
	if err := os.Unsetenv(envSupervisor); err != nil {
		panic(err)
	}
	var in supervisorInput
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		panic(err)
	}
	in.Options.Keys = in
	in.Options.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	code, err := Run(context.Background(), in.Options)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	syscall.Exit(code) // os.Exit sleeps under -race
}

// Fetch implements KeySource as a key service would answer.
func (in supervisorInput) Fetch(_ context.Context, req KeyRequest) (keyclient.Released, error) {
	switch in.Refuse {
	case "attestation":
		return keyclient.Released{}, fmt.Errorf("%w: no such job", ErrAttestation)
	case "key":
		return keyclient.Released{}, fmt.Errorf("%w: policy has expired", ErrKeyRefused)
	}
	pub, s, err := ed25519.GenerateKey(nil)
	if err != nil {
		return keyclient.Released{}, err
	}
	g := keyclient.Released{S: s, Private: in.Private, Keys: map[string]keyapi.BundleKey{}}
	g.StatementJWS, err = manifest.SignJWS(manifest.TypeStatement, in.Service, manifest.Statement{
		Service: req.Manifest.Service.ID, Manifest: req.Digest, Job: req.Job, Node: req.Node, UID: int64(os.Getuid()),
		Tier: in.Tier, Attestor: "test", S: manifest.EncodeKey(pub), Issued: time.Now().UTC(),
	})
	for _, k := range in.Keys {
		g.Keys[k.VolumeID] = k
	}
	return g, err
}

// newJob makes a job with one dataset, "input", of the given files.
func newJob(t *testing.T, files map[string]string, args ...string) *testJob {
	t.Helper()
	base := privateTemp(t)
	j := &testJob{t: t, dir: filepath.Join(base, "job"), self: filepath.Join(base, "self"), host: filepath.Join(base, "host")}
	for _, d := range []string{
		j.dir, j.self, j.host, filepath.Join(base, "bin"), j.dir + "/scripts/input", j.dir + "/scripts/output",
	} {
		check(t, os.MkdirAll(d, 0o700))
	}
	// Project directories on shared storage hand down a group that is not one's
	// primary one.
	if groups, err := os.Getgroups(); err == nil && len(groups) > 0 {
		check(t, os.Chown(j.dir, -1, groups[0]))
		check(t, os.Chmod(j.dir, os.ModeSetgid|0o700))
	}
	check(t, syscall.Mkfifo(j.host+"/ready", 0o600))
	var err error
	j.identity, err = age.GenerateX25519Identity()
	check(t, err)
	var pub ed25519.PublicKey
	pub, j.service, err = ed25519.GenerateKey(nil)
	check(t, err)
	j.m = manifest.Manifest{
		Format: manifest.Format, Run: strings.Repeat("0f", 16), Created: time.Now(), Expires: time.Now().Add(time.Hour),
		Service: manifest.Service{URL: "https://keys.example", ID: "test service", StatementKey: manifest.EncodeKey(pub)},
		Attest:  manifest.Attest{Type: "made-up", Parameters: []byte("{}")},
		Tier:    manifest.TierC, JobDir: j.dir, Nodes: 1, Recipients: []string{j.identity.Recipient().String()},
		User: "alice", SealSeconds: 60,
		InputScripts: []manifest.FileRef{}, OutputScripts: []manifest.FileRef{},
	}
	j.private = manifest.NewPrivate(args, []string{"--bind", j.host + ":/host"})
	j.in = supervisorInput{Service: j.service, Tier: manifest.TierC}
	j.m.Volumes = []manifest.VolumeRef{j.seal(manifest.KindImage, "image", j.image()), j.seal(manifest.KindDataset, "input", files)}
	j.runtime(base)
	j.binaries()
	return j
}

func (j *testJob) image() map[string]string {
	if *realRuntime == "" {
		return map[string]string{manifest.ImageFile: fakeImage}
	}
	sif, err := os.ReadFile(*realImage)
	check(j.t, err)
	return map[string]string{manifest.ImageFile: string(sif)}
}

func (j *testJob) runtime(base string) {
	path := "/usr/sbin:/usr/bin:/bin"
	if *realRuntime != "" {
		j.m.Runtime = *realRuntime
	} else {
		exe, err := os.Executable()
		check(j.t, err)
		check(j.t, os.Symlink(exe, base+"/bin/apptainer"))
		path = base + "/bin:" + path
	}
	j.env = []string{
		"PATH=" + path, "SLURM_JOB_ID=42", "SLURMD_NODENAME=" + testNode, "SLURM_CLUSTER_NAME=test", "SLURM_NODEID=0",
		"SLURM_JWT=secret", "OMP_NUM_THREADS=3", "EDITOR=vi",
	}
}

// seal makes a sealed volume and gives its key to the key service.
func (j *testJob) seal(kind manifest.Kind, name string, files map[string]string) manifest.VolumeRef {
	j.t.Helper()
	src := j.t.TempDir()
	for name, data := range files {
		check(j.t, os.MkdirAll(filepath.Dir(filepath.Join(src, name)), 0o700))
		check(j.t, os.WriteFile(filepath.Join(src, name), []byte(data), 0o600))
	}
	f, err := os.CreateTemp(j.t.TempDir(), "")
	check(j.t, err)
	defer f.Close()
	opt := volume.SealOptions{Recipients: []age.Recipient{j.identity.Recipient()}}
	s, err := volume.Seal(j.t.Context(), f, source.Dir(src), opt)
	check(j.t, err)
	ref := manifest.VolumeRef{
		Kind: kind, Name: name, Path: f.Name(), VolumeID: s.ID.String(), Digest: manifest.Digest(s.Digest),
		Checksum: manifest.Digest(s.Checksum), Size: s.Size,
	}
	j.in.Keys = append(j.in.Keys, keyapi.BundleKey{VolumeID: ref.VolumeID, Digest: ref.Digest, Key: s.Key.Bytes()})
	return ref
}

func (j *testJob) binaries() {
	check(j.t, os.WriteFile(j.self+"/sealbatch", []byte("stand-in"), 0o700))
	// By another process: a child that another test is just starting may hold a copy of
	// what this one had open for writing, which then could not be run (ETXTBSY).
	check(j.t, exec.Command("cp", gocryptfsPath, j.self+"/gocryptfs").Run())
	check(j.t, os.Chmod(j.self+"/gocryptfs", 0o700))
	for _, name := range []string{"sealbatch", "gocryptfs"} {
		b, err := os.ReadFile(filepath.Join(j.self, name))
		check(j.t, err)
		j.m.Binaries = append(j.m.Binaries, manifest.FileRef{Name: name, Digest: manifest.DigestOf(b), Size: int64(len(b))})
	}
}

// script adds a verification script, name.sh.
func (j *testJob) script(stage, name, body string) {
	j.t.Helper()
	j.scriptFile(stage, name+".sh", "#!/bin/sh\n"+body+"\n", true)
}

// scriptFile adds a file to those of the verification scripts.
func (j *testJob) scriptFile(stage, name, content string, executable bool) {
	j.t.Helper()
	data, path := []byte(content), filepath.Join(j.dir, "scripts", stage, name)
	check(j.t, os.MkdirAll(filepath.Dir(path), 0o700))
	check(j.t, os.WriteFile(path, data, 0o600))
	list := &j.m.InputScripts
	if stage == jobdir.OutputStage {
		list = &j.m.OutputScripts
	}
	*list = append(*list, manifest.FileRef{Name: name, Digest: manifest.DigestOf(data), Size: int64(len(data)), Exec: executable})
}

// start starts the supervisor.
func (j *testJob) start() *exec.Cmd {
	j.t.Helper()
	private, err := j.private.Encode()
	check(j.t, err)
	if j.m.Private.IsZero() {
		j.m.Private = manifest.DigestOf(private)
	}
	j.in.Private = private
	b, err := j.m.Encode()
	check(j.t, err)
	check(j.t, os.WriteFile(filepath.Join(j.dir, jobdir.ManifestName), b, 0o600))
	if j.in.Options.Digest == "" {
		j.in.Options.Digest = manifest.DigestOf(b).String()
	}
	j.in.Options.JobDir, j.in.Options.SelfDir = j.dir, j.self
	input, err := json.Marshal(j.in)
	check(j.t, err)
	exe, err := os.Executable()
	check(j.t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(j.env, envSupervisor+"=1", "GORACE="+os.Getenv("GORACE"))
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = io.MultiWriter(&j.log, j.t.Output())
	check(j.t, cmd.Start())
	j.ended = make(chan struct{})
	go func() {
		defer close(j.ended)
		_ = cmd.Wait() // a non-zero exit code is no error here
		// Whoever still waits for the application gets the end of the pipe.
		if f, err := os.OpenFile(j.host+"/ready", os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			_ = f.Close()
		}
	}()
	return cmd
}

// run runs the supervisor to its end and returns its exit code.
func (j *testJob) run() int {
	j.t.Helper()
	return j.wait(j.start())
}

// wait waits for the supervisor's exit code.
func (j *testJob) wait(cmd *exec.Cmd) int {
	<-j.ended
	return cmd.ProcessState.ExitCode()
}

// ready waits until the application has written a line to /host/ready. The pipe
// ends when the application has.
func (j *testJob) ready() *os.File {
	j.t.Helper()
	f, err := os.Open(j.host + "/ready")
	check(j.t, err)
	line := make([]byte, 6)
	if _, err := io.ReadFull(f, line); err != nil || string(line) != "ready\n" {
		j.t.Fatalf("the application is not ready: %q, %v", line, err)
	}
	return f
}

// killMatching kills the processes that have a word among their arguments.
func killMatching(t *testing.T, word string) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	check(t, err)
	for _, p := range all {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + p.Name() + "/cmdline")
		if err == nil && slices.Contains(strings.Split(string(b), "\x00"), word) {
			check(t, syscall.Kill(pid, syscall.SIGKILL))
			n++
		}
	}
	return n
}

// processes counts the processes that have dir among their arguments.
func processes(t *testing.T, dir string) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	check(t, err)
	for _, p := range all {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		if b, err := os.ReadFile("/proc/" + p.Name() + "/cmdline"); err == nil && bytes.Contains(b, []byte(dir)) {
			n++
		}
	}
	return n
}

// openDir opens a directory until the test ends.
func openDir(t *testing.T, dir string) fsx.Dir {
	t.Helper()
	root, err := os.OpenRoot(dir)
	check(t, err)
	t.Cleanup(func() { check(t, root.Close()) })
	return fsx.Dir{Root: root}
}

func privateTemp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.Chmod(dir, 0o700))
	return dir
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
