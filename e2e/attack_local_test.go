package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const escape = "\x1b]0;THE ATTACKER'S TITLE\a\x1b[2J"

// TestAttackTerminal: whoever can write the storage puts what steers a terminal
// into a job's log and into names.
func TestAttackTerminal(t *testing.T) {
	t.Parallel()
	data := sensitiveData(t, "terminal")
	play := func(program string) (shown string, j *job) {
		j = held(t, program, data, "-w", "cn1")
		dir := onDisk(t, "login", j.dir)
		if err := os.WriteFile(filepath.Join(dir, "job.log"), []byte(escape+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		must(t, "login", "root", "chown", "alice:", j.dir+"/job.log")
		j.release()
		if code := j.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if err := os.Mkdir(filepath.Join(dir, "nodes", "cn1"+escape), 0o755); err != nil {
			t.Fatal(err)
		}
		r := run(t.Context(), "laptop", "alice", nil, program, "results", j.id, "-o", "/home/alice/results-"+j.id)
		if r.code != 0 && program == "sealbatch" {
			t.Errorf("results: %s", r)
		}
		return j.log.String() + r.err + r.out, j
	}
	shown, _ := play("sealbatch")
	if strings.Contains(shown, "\x1b") || strings.Contains(shown, "\a") || !strings.Contains(shown, `\u001b]0;THE ATTACKER`) {
		t.Errorf("shown: %q", shown)
	}
	weak := weakened(t, weakness{"internal/text/printable.go", "return r < 0x20 || (r >= 0x7f && r < 0xa0) ||", "return"},
		weakness{"internal/results/results.go", "e.IsDir() && jobdir.IsNodeName(e.Name())", "e.IsDir() || jobdir.IsNodeName(e.Name())"})
	shown, j := play(installed(t, "laptop", weak) + "/sealbatch")
	if !strings.Contains(j.log.String(), escape) || strings.Count(shown, escape) < 2 {
		t.Errorf("without the defence the attack fails, too: %q", shown)
	}
}

// TestAttackNodeLocal: another user of the node waits in /tmp for the job's own
// directory, and makes one beforehand where the name could be guessed.
func TestAttackNodeLocal(t *testing.T) {
	t.Parallel()
	data := sensitiveData(t, "node-local")
	// She puts her program in the place of the job's as soon as that is there and executable.
	const lurk = `printf '#!/bin/sh\necho "THE ATTACKER RUNS AS $(id -un)"\n' >/tmp/evil-$1 && chmod 755 /tmp/evil-$1
		mkdir -p -m 777 "/tmp/sealbatch.$1" && chmod 777 "/tmp/sealbatch.$1" && echo ready
		while :; do
			for d in /tmp/sealbatch.*/; do
				case $d in */sealbatch."$1"/) [ "$(stat -c %a "$d/sealbatch" 2>/dev/null)" = 500 ] || continue ;; esac
				cp "/tmp/evil-$1" "$d/evil" 2>/dev/null && mv -f "$d/evil" "$d/sealbatch" 2>/dev/null
				mv "$d" "$d.taken" 2>/dev/null
			done
			sleep 0.02
		done`
	play := func(program string) (gained bool, code int) {
		j := held(t, program, data, "-w", "cn2")
		c := command(context.Background(), "cn2", "mallory", "bash", "-c", lurk, "bash", j.id)
		out := &firstWrite{c: make(chan struct{})}
		c.Stdout = out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			c.Process.Signal(syscall.SIGTERM)
			c.Wait()
		}()
		select {
		case <-out.c:
		case <-time.After(30 * time.Second):
			t.Fatal("the attacker does not begin")
		}
		j.release()
		code = j.wait()
		return attackerRan(t, j, ""), code
	}
	if gained, code := play("sealbatch"); gained || code != 0 {
		t.Errorf("gained: %v, exit code %d", gained, code)
	}
	guessed := weakened(t,
		weakness{"slurm/render.go", `dir=$(mktemp -d "$base/sealbatch.XXXXXXXXXX" 2>/dev/null) ||`,
			`dir=$base/sealbatch.$SLURM_JOB_ID; mkdir -p "$dir" ||`},
		weakness{"slurm/render.go", `chmod 500 "$dir/$file"`, `chmod 500 "$dir/$file"; sleep 1`})
	if gained, code := play(installed(t, "laptop", guessed) + "/sealbatch"); !gained {
		t.Errorf("without the defence the attack fails, too: exit code %d", code)
	}
}

// firstWrite closes c at the first write.
type firstWrite struct {
	c    chan struct{}
	done bool
}

func (f *firstWrite) Write(p []byte) (int, error) {
	if !f.done {
		f.done = true
		close(f.c)
	}
	return len(p), nil
}

// TestAttackPlantedConf: a gocryptfs.conf that says to leave names in plain text
// waits in the output volume when it is mounted.
func TestAttackPlantedConf(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "planted-conf", map[string]string{"run.sh": "echo x >/sd-container/output/patient-ada; sleep 3\n"})
	conf := `{"Creator":"gocryptfs v2","EncryptedKey":"AAAA","ScryptObject":{"Salt":"AAAA","N":1024,"R":8,"P":1,"KeyLen":32},` +
		`"Version":2,"FeatureFlags":["GCMIV128","HKDF","PlaintextNames","FIDO2"]}`
	play := func(program string) (gained bool, code int) {
		j := held(t, program, data, "-w", "cn1")
		out := filepath.Join(onDisk(t, "login", j.dir), "nodes/cn1/output")
		j.release()
		eventually(t, 30*time.Second, "there is an output volume", func() bool {
			_, err := os.Stat(filepath.Join(out, "gocryptfs.diriv"))
			return err == nil
		})
		if err := os.WriteFile(filepath.Join(out, "gocryptfs.conf"), []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, "the application has written", func() bool {
			entries, err := os.ReadDir(out)
			for _, e := range entries {
				gained = gained || e.Name() == "patient-ada"
			}
			return gained || err != nil || len(entries) >= 6
		})
		return gained, j.wait()
	}
	if gained, code := play("sealbatch"); gained || code != 0 {
		t.Errorf("names in plain text: %v, exit code %d", gained, code)
	}
	// A program that believes what the file says.
	believing := weakened(t, weakness{"internal/sandbox/gocryptfs.go", `g.cmd.Dir, g.cmd.Env = "/"`,
		`unix.Nanosleep(&unix.Timespec{Sec: 1}, nil)
	if b, err := cipher.ReadFile("gocryptfs.conf"); err == nil && bytes.Contains(b, []byte("PlaintextNames")) {
		g.cmd.Args = append([]string{g.cmd.Args[0], "-plaintextnames"}, g.cmd.Args[1:]...)
	}
	g.cmd.Dir, g.cmd.Env = "/"`})
	if gained, code := play(installed(t, "laptop", believing) + "/sealbatch"); !gained {
		t.Errorf("without the defence the attack fails, too: exit code %d", code)
	}
}
