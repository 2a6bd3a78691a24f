package e2e

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/jobdir"
)

// keepsWriting writes files of known sizes, says so by one more, and waits.
const keepsWriting = `cd /sd-container/output
fill() { head -c "$2" /dev/zero | tr '\0' "$1" >"$1"; }
fill a 5000; fill b 5000; fill c 20000; fill d 40000
sleep 600
`

// cipherSize is what gocryptfs makes of a file: a header, and 32 bytes a block.
func cipherSize(plain int64) int64 { return 18 + plain + (plain+4095)/4096*32 }

// writing submits such a job and returns its cipher files, by their plain sizes.
func writing(t *testing.T, name string) (j *job, files map[int64][]string) {
	t.Helper()
	data := alice.dataset(t, name, map[string]string{"run.sh": keepsWriting})
	j = alice.submit(t, shell(t), data, "-w", "cn1")
	out := filepath.Join(onDisk(t, "login", j.dir), "nodes/cn1", jobdir.CipherDirName)
	eventually(t, 90*time.Second, "the application has written", func() bool {
		files = map[int64][]string{}
		entries, _ := os.ReadDir(out)
		for _, e := range entries {
			fi, err := e.Info()
			if err != nil {
				return false
			}
			for _, plain := range []int64{5000, 20000, 40000} {
				if fi.Size() == cipherSize(plain) {
					files[plain] = append(files[plain], filepath.Join(out, e.Name()))
				}
			}
		}
		return len(files[5000]) == 2 && len(files[20000]) == 1 && len(files[40000]) == 1
	})
	return j, files
}

func exchange(t *testing.T, a, b string) {
	t.Helper()
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
}

// zero makes a file's second block a hole, as an application can.
func zero(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 4096+32), 18+4096+32); err != nil {
		t.Fatal(err)
	}
}

func fills(c string, n int) string { return strings.Repeat(c, n) }

// TestAttackRunningOutputs: who can write the storage alters a block while the
// job runs. It never passes as data, and the owner is told.
func TestAttackRunningOutputs(t *testing.T) {
	t.Parallel()
	j, cipher := writing(t, "running-outputs")
	flip(t, cipher[40000][0], 18+4096+32+100)
	must(t, "login", "alice", "scancel", "--signal=USR1", j.id)
	if code := j.wait(); code == 0 {
		t.Error("a job whose outputs were altered ended with 0")
	}
	nodes, r := j.results()
	dir, ok := nodes["cn1"]
	if !ok {
		dir = filepath.Join(onDisk(t, "laptop", "/home/alice/results-"+j.id), "cn1")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "d")); err == nil && string(b) != fills("d", len(b)) {
		t.Errorf("an altered block was passed on as data")
	} else if err == nil && len(b) == 40000 {
		t.Error("an altered block was not found")
	}
	if r.code == 0 && !strings.Contains(r.err, "damaged") {
		t.Errorf("nothing is said of the altered block: %s", r)
	}
}

// TestAttackUnsealedOutputs is the documented success: until the job seals them,
// who can write the storage can exchange whole files and make holes in them. The
// results say that they lay on scratch until then.
func TestAttackUnsealedOutputs(t *testing.T) {
	t.Parallel()
	j, cipher := writing(t, "unsealed-outputs")
	exchange(t, cipher[5000][0], cipher[5000][1])
	zero(t, cipher[20000][0])
	must(t, "login", "alice", "scancel", "--signal=USR1", j.id)
	j.wait()
	nodes, r := j.results()
	if r.code != 0 || !strings.Contains(r.err, "until then the outputs lay on: scratch") {
		t.Fatalf("results: %s", r)
	}
	if a, b := read(t, nodes["cn1"], "a"), read(t, nodes["cn1"], "b"); a != fills("b", 5000) || b != fills("a", 5000) {
		t.Errorf("what the documentation calls possible is not: a is %.5q, b is %.5q", a, b)
	}
	if c := read(t, nodes["cn1"], "c"); c != fills("c", 4096)+fills("\x00", 4096)+fills("c", 20000-8192) {
		t.Error("what the documentation calls possible is not: the hole does not read as zeros")
	}
}

// TestAttackKilledOutputs: what a killed job left is altered before its owner
// fetches it. What opens is genuine block by block, and is called recovered.
func TestAttackKilledOutputs(t *testing.T) {
	t.Parallel()
	j, cipher := writing(t, "killed-outputs")
	must(t, "cn1", "root", "sh", "-c", `for p in $(pgrep -f "sealbatch node-run"); do
		grep -qs "/job_$1/" /proc/$p/cgroup && kill -KILL "$p"; done; true`, "sh", j.id)
	if code := j.wait(); code == 0 {
		t.Fatal("a killed job ended with 0")
	}
	a, d := filepath.Base(cipher[5000][0]), filepath.Base(cipher[40000][0])
	secret := "/home/alice/.ssh/id_ed25519"
	for name, alter := range map[string]func(t *testing.T, out string) error{
		"files exchanged": func(t *testing.T, out string) error {
			exchange(t, filepath.Join(out, a), filepath.Join(out, filepath.Base(cipher[5000][1])))
			return nil
		},
		"an altered block": func(t *testing.T, out string) error { flip(t, filepath.Join(out, d), 5000); return nil },
		"another diriv": func(_ *testing.T, out string) error {
			return os.WriteFile(filepath.Join(out, "gocryptfs.diriv"), []byte("sixteen bytes...")[:16], 0o440)
		},
		"a link to one's key": func(_ *testing.T, out string) error {
			return swapFor(filepath.Join(out, a), func(p string) error { return os.Symlink(secret, p) })
		},
		"a pipe": func(_ *testing.T, out string) error {
			return swapFor(filepath.Join(out, a), func(p string) error { return unix.Mkfifo(p, 0o600) })
		},
		"a device": func(_ *testing.T, out string) error {
			return swapFor(filepath.Join(out, a), func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, 1<<8|5) })
		},
		"a directory for a file": func(_ *testing.T, out string) error {
			return swapFor(filepath.Join(out, a), func(p string) error { return os.MkdirAll(p+strings.Repeat("/x", 200), 0o700) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := copyOf(t, j, "killed-"+strings.NewReplacer(" ", "-", "'", "").Replace(name))
			if err := alter(t, c.node("cn1", jobdir.CipherDirName)); err != nil {
				t.Fatal(err)
			}
			c.own()
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			out := c.state + "/out"
			r := run(ctx, "laptop", "alice", nil, "env", "XDG_STATE_HOME="+c.state, "sealbatch", "results", c.rec.JobID, "-o", out)
			if ctx.Err() != nil {
				t.Fatalf("it does not end: %s", r)
			}
			if name == "files exchanged" && (r.code != 0 || !strings.Contains(r.err, "recovered") || !strings.Contains(r.err, "rolled back")) {
				t.Errorf("what the documentation calls possible is not: %s", r)
			}
			if r.code == 0 && !strings.Contains(r.err, "files may be missing") {
				t.Errorf("nothing is said of it: %s", r)
			}
			if (name == "an altered block" || name == "another diriv") && r.code == 0 {
				t.Errorf("it is not found: %s", r)
			}
			genuine(t, onDisk(t, "laptop", out), name == "files exchanged")
		})
	}
	t.Run("its scratch volume", func(t *testing.T) { attackScratch(t, j) })
}

// swapFor removes a file and has another kind made under its name.
func swapFor(file string, mk func(string) error) error {
	if err := os.Remove(file); err != nil {
		return err
	}
	return mk(file)
}

// genuine requires that all that was opened is what the application wrote.
func genuine(t *testing.T, dir string, exchanged bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		want := filepath.Base(p)
		if exchanged {
			want = map[string]string{"a": "b", "b": "a"}[want]
		}
		if len(want) != 1 {
			return nil
		}
		if !e.Type().IsRegular() {
			t.Errorf("%s is a %v", p, e.Type())
			return nil
		}
		b, err := os.ReadFile(p)
		if string(b) != fills(want, len(b)) {
			t.Errorf("%s holds %.20q", p, b)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}

// TestAttackWorkDirectory: a member of the project may rename directories in the
// project's, alice's work directory among them, and put another in its place.
func TestAttackWorkDirectory(t *testing.T) {
	t.Parallel()
	data := sensitiveData(t, "work-directory")
	play := func(program, name string) (gained bool, code int, file string) {
		work := project + "/" + name
		must(t, "login", "alice", "mkdir", work)
		precious := "/home/alice/precious-" + name
		write(t, "login", "alice", precious, "mine\n")
		j := held(t, program, data, "--workdir", work)
		must(t, "login", "bob", "sh", "-c", `mv "$1" "$1.away" && mkdir -p "$2/bin" && chmod 777 "$1" "$2" && ln -s "$3" "$2/job.log" &&
			printf '#!/bin/sh\necho "THE ATTACKER RUNS AS $(id -un)"\n' >"$2/bin/sealbatch" &&
				chmod 755 "$2/bin/sealbatch" && cp "$2/bin/sealbatch" "$2/bin/gocryptfs"`,
			"sh", work, j.dir, precious)
		j.release()
		code = j.wait()
		return attackerRan(t, j, ""), code, must(t, "login", "alice", "cat", precious)
	}
	gained, code, file := play("sealbatch", "work")
	if gained || code != exitDirectory || file != "mine" {
		t.Errorf("gained: %v, exit code %d, alice's own file holds %q", gained, code, file)
	}
	program := installed(t, "laptop", weakened(t, weakness{script, onLog, "if ! cd @dir@ || ! exec"},
		weakness{script, onNode, "cd @dir@ || { echo"},
		weakness{script, onCopy, "if false; then"})) + "/sealbatch"
	if gained, code, file := play(program, "work-control"); !gained || !strings.HasPrefix(file, "mine\nTHE ATTACKER RUNS") {
		t.Errorf("without the defence the attack fails, too: gained: %v, exit code %d, alice's own file holds %q", gained, code, file)
	}
}

// TestAttackSearchPath: alice's login files have left an empty entry in PATH, which means whatever directory one is in. bob has
// put a directory of hers in which the group writes in the place of the job's, with a program in it that is named like
// one by which a script looks around.
func TestAttackSearchPath(t *testing.T) {
	t.Parallel()
	data := sensitiveData(t, "search-path")
	play := func(name string, weak ...weakness) (ran, code int) {
		work := project + "/" + name
		must(t, "login", "alice", "sh", "-c", `mkdir "$1" "$1.shared" && chmod 2770 "$1.shared"`, "sh", work)
		login := weakness{script, "umask 077\n\n# Enters", "umask 077\nPATH=:$PATH\n\n# Enters"}
		j := held(t, installed(t, "laptop", weakened(t, append(weak, login)...))+"/sealbatch", data, "--workdir", work)
		must(t, "login", "bob", "sh", "-c", `printf '#!/bin/sh\nid -un >>"%s"\n' "$1.ran" >"$1.shared/stat" && chmod 755 "$1.shared/stat" &&
			mv "$1" "$1.away" && mkdir -m 777 "$1" && mv "$1.shared" "$2"`, "sh", work, j.dir)
		j.release()
		code = j.wait()
		r := run(t.Context(), "login", "alice", nil, "cat", work+".ran")
		return strings.Count(r.out, "alice"), code
	}
	if ran, code := play("search"); ran != 0 || code != exitDirectory {
		t.Errorf("bob's program ran %d times as alice, exit code %d", ran, code)
	}
	if ran, code := play("search-control", weakness{script, "  local PATH=/usr/bin:/bin\n", ""}); ran == 0 {
		t.Errorf("without the defence the attack fails, too: exit code %d", code)
	}
}
