package slurm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Who plays, and the group of their project.
const (
	aliceID = 22001
	bobID   = 22002
	project = 23001
)

// by returns a command of somebody's.
func by(uid uint32, argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{project}}}
	return cmd
}

// exchange waits for the programs that were checked, and puts a directory of his own with a program in
// the place of the one that holds them.
const exchange = `until [ -e "$1/checked" ]; do sleep 0.01; done
cd "$1/project" && for dir in alice/sealbatch.*; do
  [ -d "$dir" ] && mv alice away && mkdir -p "$dir" && printf '#!/bin/sh\nid -u >"$RECORD"\n' >"$dir/sealbatch" && chmod -R 755 alice
done
: >"$1/go"`

// TestAttackBase: TMPDIR lies in a project's directory, in which bob may rename what is alice's. He puts
// a program in the place of the one that her job has just checked, and the job runs it as alice.
func TestAttackBase(t *testing.T) {
	t.Parallel()
	play := func(t *testing.T, without func(string) string) (code int, record string) {
		b := newBench(t)
		record = filepath.Join(b.dir, "shared", "record")
		for _, d := range []struct {
			dir  string
			mode os.FileMode
		}{{"", 0o755}, {"/..", 0o755}, {"/shared", 0o777}, {"/shared/project", os.ModeSetgid | 0o770}} {
			_ = os.Mkdir(b.dir+d.dir, 0o755)
			if err := os.Chmod(b.dir+d.dir, d.mode); err != nil {
				t.Fatal(err)
			}
		}
		cmd := b.command(t, "TMPDIR="+b.dir+"/shared/project/alice", "RECORD="+record)
		text, err := os.ReadFile(b.dir + "/job.sh")
		if err != nil {
			t.Fatal(err)
		}
		const start = `        exec "$dir/$program"`
		wait := "        : >" + b.dir + "/shared/checked; until [ -e " + b.dir + "/shared/go ]; do sleep 0.01; done\n"
		b.write(t, "job.sh", without(strings.Replace(string(text), start, wait+start, 1)))
		for _, argv := range [][]string{{"chgrp", "23001", b.dir + "/shared/project"},
			{"chown", "-R", "22001", b.script.Dir, b.dir + "/bin", b.dir + "/job.sh"},
			{"install", "-d", "-o", "22001", "-g", "23001", "-m", "2770", b.dir + "/shared/project/alice"}} {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%q: %v\n%s", argv, err, out)
			}
		}
		attack := by(bobID, "bash", "-c", exchange, "bash", b.dir+"/shared")
		if err := attack.Start(); err != nil {
			t.Fatal(err)
		}
		job := by(aliceID, cmd.Args...)
		job.Dir, job.Env, job.WaitDelay = cmd.Dir, cmd.Env, time.Second
		code = exitCode(job.Run())
		if err := os.WriteFile(b.dir+"/shared/checked", nil, 0o600); err != nil { // had it not come so far
			t.Error(err)
		}
		if err := attack.Wait(); err != nil {
			t.Errorf("the attacker: %v", err)
		}
		recorded, err := os.ReadFile(record)
		if err != nil {
			t.Fatalf("%v, exit %d: %s", err, code, b.log(t))
		}
		return code, string(recorded)
	}
	if code, record := play(t, func(s string) string { return s }); code != 42 || !strings.HasPrefix(record, "/tmp/sealbatch.") {
		t.Errorf("exit %d, ran as %q", code, record)
	}
	control := func(s string) string {
		return strings.Replace(s, `if exchangeable "$base"; then`, "if false; then", 1)
	}
	if code, record := play(t, control); code != 0 || record != "22001\n" {
		t.Errorf("without the defence the attack fails, too: exit %d, ran as %q", code, record)
	}
}
