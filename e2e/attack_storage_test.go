package e2e

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

// sensitive is a dataset whose application copies what nobody else may see.
const sensitive = "the patient's name is Ada"

func sensitiveData(t *testing.T, name string) string {
	t.Helper()
	return alice.dataset(t, name,
		map[string]string{"secret": sensitive, "run.sh": "cat /sd-container/input/secret >/sd-container/output/result\n"})
}

// held is a job that waits for release in the queue.
func held(t *testing.T, program, data string, flags ...string) *job {
	t.Helper()
	return alice.submitWith(t, program, shell(t), data, append([]string{"--sbatch", "hold"}, flags...)...)
}

func (j *job) release() {
	j.t.Helper()
	must(j.t, "login", string(j.who), "scontrol", "release", j.id)
}

// replaced puts content in a file's place as a rename does: who has it open
// keeps the old one.
func replaced(t *testing.T, file string, content []byte) {
	t.Helper()
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	tmp := file + ".attacker"
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		t.Fatal(err)
	}
	uid, gid := ownerOf(st)
	for _, err := range []error{os.Chown(tmp, uid, gid), os.Chmod(tmp, st.Mode().Perm()), os.Rename(tmp, file)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func ownerOf(st os.FileInfo) (uid, gid int) {
	s := st.Sys().(*syscall.Stat_t)
	return int(s.Uid), int(s.Gid)
}

// replacedOnceRead is replaced at the moment when somebody closes the file
// again whom it was open for reading: right after a check, if that is one.
// It returns at once; wait gives what came of it.
func replacedOnceRead(t *testing.T, file string, content []byte) (wait func()) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_CLOSE_NOWRITE); err != nil {
		t.Fatal(err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		_, err := watch.Read(b)
		if err == nil {
			replaced(t, file, content)
		}
		done <- err
	}()
	return func() {
		t.Helper()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Error("nobody read " + file)
		}
		watch.Close()
	}
}

// attackersProgram says who runs it, and that it does.
const attackersProgram = "#!/bin/sh\necho \"THE ATTACKER RUNS AS $(id -un)\"\n"

// tampering alters what lies on scratch for a job that waits in the queue.
type tampering struct {
	flags []string
	// before is done while the job waits; what it returns, after the job.
	before func(t *testing.T, dir string) (after func())
	gained func(t *testing.T, j *job, dir string) bool
	code   int // of the job when the attack is kept out
	weak   []weakness
}

const (
	script  = "slurm/render.go"
	files   = "internal/noderun/files.go"
	opening = "internal/jobdir/open.go"
	onLog   = `if ! in_job_directory || [ -L @log@ ] || ! exec`
	onNode  = `in_job_directory || { echo`
	onPin   = ` && echo "@digest@  @manifest@" | sha256sum --check --status --strict`
	onCopy  = `if ! echo "$digest  $dir/$file" | sha256sum --check --status --strict; then`
)

// attackerRan reports whether the attacker's program ran as the submitter.
func attackerRan(_ *testing.T, j *job, _ string) bool {
	return strings.Contains(j.log.String(), "THE ATTACKER RUNS AS alice")
}

// at replaces a file of the job's at once, or once it has been read.
func at(name string, raced bool, content func(t *testing.T, old []byte) []byte) func(t *testing.T, dir string) func() {
	return func(t *testing.T, dir string) func() {
		t.Helper()
		file := filepath.Join(dir, name)
		old, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if raced {
			return replacedOnceRead(t, file, content(t, old))
		}
		replaced(t, file, content(t, old))
		return func() {}
	}
}

func always(s string) func(*testing.T, []byte) []byte {
	return func(*testing.T, []byte) []byte { return []byte(s) }
}

// TestAttackJobFiles: who can write the storage alters what lies there for a
// job between submission and start, or in the moment after it was read.
func TestAttackJobFiles(t *testing.T) {
	t.Parallel()
	data := sensitiveData(t, "job-files")
	write(t, "login", "alice", alice.scratch()+"/output-checks/10-check.sh", "#!/bin/sh\nexit 0\n")
	attacker, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	// toAttacker has the results sealed to somebody else.
	toAttacker := func(t *testing.T, old []byte) []byte {
		m, _, err := manifest.Parse(old)
		if err != nil {
			t.Fatal(err)
		}
		m.Recipients = []string{attacker.Recipient().String()}
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	attackerReads := func(t *testing.T, _ *job, dir string) bool { return opensSealed(t, dir, attacker) == sensitive }
	spied := func(t *testing.T, j *job, _ string) bool {
		nodes, _ := j.results()
		for _, dir := range nodes {
			if b, err := os.ReadFile(filepath.Join(dir, "spied")); err == nil {
				return string(b) == sensitive
			}
		}
		return false
	}
	// keyThief takes the key of the outputs that gocryptfs is given.
	keyThief := "#!/bin/sh\nread -r key\necho \"$key\" >" + alice.scratch() + "/stolen-keys\nexit 1\n"
	for name, c := range map[string]tampering{
		"program": {
			before: at("bin/sealbatch", false, always(attackersProgram)), gained: attackerRan, code: exitIntegrity,
			weak: []weakness{{script, onCopy, "if false; then"}},
		},
		"program once checked": {
			before: at("bin/sealbatch", true, always(attackersProgram)), gained: attackerRan, code: 0,
			// It checks what lies on scratch, and copies then.
			weak: []weakness{
				{script,
					`dd if="./$path" of="$dir/$file" bs=1M count="$size" iflag=count_bytes,fullblock,nonblock status=none || { at=0; break; }`, ":"},
				{script, onCopy, strings.Replace(onCopy, "$dir/$file", "$path", 1)},
				{script, `chmod 500 "$dir/$file"`, `sleep 2; cp -- "$path" "$dir/$file"; chmod 500 "$dir/$file"`},
			},
		},
		"gocryptfs": {
			before: at("bin/gocryptfs", false, always(keyThief)), code: exitIntegrity,
			gained: func(t *testing.T, _ *job, _ string) bool {
				b, err := os.ReadFile(filepath.Join(onDisk(t, "login", alice.scratch()), "stolen-keys"))
				if err != nil {
					return false
				}
				key, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""))
				return err == nil && len(key) == 32
			},
			// Script and supervisor both check the copies.
			weak: []weakness{{script, onCopy, "if false; then"},
				{files, "if n != ref.Size || manifest.Digest(h.Sum(nil)) != ref.Digest", "if n < 0"}},
		},
		"manifest": {
			before: at("manifest.json", false, toAttacker), gained: attackerReads, code: exitDirectory,
			// The key service knows the digest, too, and so does a supervisor that asks for the right one.
			weak: []weakness{{script, onPin, ""}, {opening, "if manifest.DigestOf(b) != want {",
				"if m, _, err := manifest.Parse(b); err == nil {\n\t\treturn m, nil\n\t}\n\tif manifest.DigestOf(b) != want {"}},
		},
		"manifest once checked": {
			before: at("manifest.json", true, toAttacker), gained: attackerReads, code: exitDirectory, // each node looks for itself
			weak: []weakness{{script, onPin, ""}, {opening, "m, _, err := manifest.Parse(b)", "unix.Nanosleep(&unix.Timespec{Sec: 2}, nil)\n\t" +
				"b, _ = fsx.Dir{Root: root}.ReadRegular(ManifestName, maxManifest)\n\tm, _, err := manifest.Parse(b)"}},
		},
		"verification script": {
			flags:  []string{"-o", alice.scratch() + "/output-checks"},
			before: at("scripts/output/10-check.sh", false, always("#!/bin/sh\ncp /sd-container/input/secret /sd-container/output/spied\n")),
			gained: spied, code: exitIntegrity,
			weak: []weakness{{files, "if int64(len(b)) != ref.Size || manifest.DigestOf(b) != ref.Digest", "if false"}},
		},
		"verification script once checked": {
			flags:  []string{"-o", alice.scratch() + "/output-checks"},
			before: at("scripts/output/10-check.sh", true, always("#!/bin/sh\ncp /sd-container/input/secret /sd-container/output/spied\n")),
			gained: spied, code: 0,
			weak: []weakness{{files, `"crypto/sha256"`, "\"crypto/sha256\"\n\t\"time\""},
				{files, "out[i] = b", "time.Sleep(2 * time.Second)\n\t\tout[i], _ = job.ReadRegular(path.Join(dir, ref.Name), maxScript)"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play := func(t *testing.T, program string) (gained bool, code int) {
				j := held(t, program, data, c.flags...)
				dir := onDisk(t, "login", j.dir)
				after := c.before(t, dir)
				j.release()
				code = j.wait()
				after()
				return c.gained(t, j, dir), code
			}
			if gained, code := play(t, "sealbatch"); gained || code != c.code {
				t.Errorf("gained: %v, exit code %d, want %d", gained, code, c.code)
			}
			program := installed(t, "laptop", weakened(t, c.weak...)) + "/sealbatch"
			if gained, code := play(t, program); !gained {
				t.Errorf("without the defence the attack fails, too: exit code %d", code)
			}
		})
	}
}

// opensSealed is the result that an identity opens of what the job sealed; ""
// if it opens nothing, or nothing was sealed.
func opensSealed(t *testing.T, dir string, id age.Identity) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "nodes", "*", "results.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		return ""
	}
	f, err := os.Open(found[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	key, err := volume.UnwrapKey(f, st.Size(), id)
	if err != nil {
		return ""
	}
	r, err := volume.Open(f, st.Size(), key)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := r.Extract(t.Context(), out, volume.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	return read(t, out, "result")
}

// TestAttackVolumeByKeyHolder: bob may run jobs on alice's data, so he can take
// its key (the threat model says so). He cannot make others compute on data of
// his own under it, although the storage lets him replace the file.
func TestAttackVolumeByKeyHolder(t *testing.T) {
	t.Parallel()
	// A build whose volumes all have one key plays that he has taken it.
	knowing := installed(t, "laptop", weakened(t,
		weakness{"volume/seal.go", "newKey(g.random)", `newKey(bytes.NewReader([]byte("0123456789abcdef0123456789abcdef")))`},
		weakness{"volume/seal.go", "io.ReadFull(g.random, g.out.ID[:])",
			`io.ReadFull(bytes.NewReader([]byte("attacker's ident")), g.out.ID[:])`})) + "/sealbatch"
	app := "cat /sd-container/input/secret >/sd-container/output/result\n"
	for dir, content := range map[string]string{"data/known": sensitive, "data/fake": "the patient's name is Eve"} {
		write(t, "laptop", "alice", dir+"/secret", content)
		write(t, "laptop", "alice", dir+"/run.sh", app)
	}
	info := must(t, "laptop", "alice", knowing, "data-prep", "-i", "data/known", "--data-path", "data/known.sealed",
		"--data-path-at-rest", alice.scratch(), "-u", "alice", "-g", "project_1", "-c", "*")
	must(t, "laptop", "alice", knowing, "seal", "data/fake", "-o", "data/fake.sealed", "-r", ".ssh/id_ed25519.pub")
	fake, err := os.ReadFile(onDisk(t, "laptop", "/home/alice/data/fake.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(onDisk(t, "login", alice.scratch()),
		filepath.Base(strings.TrimSuffix(sensitiveData(t, "other-volume"), ".info.yaml"))))
	if err != nil {
		t.Fatal(err)
	}
	believing := installed(t, "laptop", weakened(t,
		weakness{"internal/noderun/volumes.go", "st.Size() != ref.Size", "st.Size() == 0"},
		weakness{"internal/noderun/volumes.go", ", Digest: volume.Digest(released.Digest)", ""},
		weakness{"internal/noderun/volumes.go",
			"r.ID().String() != ref.VolumeID || digest != ref.Digest || digest != released.Digest", "digest.IsZero()"}))
	file := filepath.Join(onDisk(t, "login", alice.scratch()), "known.sealed")
	genuine, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// All are submitted while the genuine volume is there, else job-prep refuses.
	honest, again, control := held(t, "sealbatch", info), held(t, "sealbatch", info), held(t, believing+"/sealbatch", info)
	replaced(t, file, fake)
	if r := alice.sb(t, "job-prep", "-ai", shell(t), "-di", info, "-t", "10", "--seal-time", "60", "--workdir", alice.scratch()); r.code != 7 {
		t.Errorf("job-prep takes the replaced volume: %s", r)
	}
	honest.release()
	if code := honest.wait(); code != exitIntegrity {
		t.Errorf("exit code %d, want %d", code, exitIntegrity)
	}
	control.release()
	control.wait()
	nodes, r := control.results()
	for _, dir := range nodes {
		if got := read(t, dir, "result"); got != "the patient's name is Eve" {
			t.Errorf("without the digest the forged data are refused, too: %q", got)
		}
	}
	if len(nodes) != 1 {
		t.Errorf("control: %s", r)
	}
	// Another volume of the owner's under the name: the released key does not open it.
	replaced(t, file, other)
	again.release()
	if code := again.wait(); code != exitIntegrity {
		t.Errorf("another volume of the owner's: exit code %d, want %d", code, exitIntegrity)
	}
	replaced(t, file, genuine)
}
