package slurm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAttackSearchPath: the submitter's login files have left an empty entry in PATH, and bob has exchanged a directory of the
// submitter's own, in which the group can write, for the job's: with a program of the name of one that the script
// starts in order to look around. It is not started; in a script that looks by the submitter's PATH it is.
func TestAttackSearchPath(t *testing.T) {
	t.Parallel()
	play := func(t *testing.T, weaken func(string) string) (ran bool) {
		b := newBench(t)
		cmd := b.command(t)
		text, err := os.ReadFile(cmd.Args[1])
		if err != nil {
			t.Fatal(err)
		}
		b.write(t, "job.sh", weaken(string(text)))
		loot := filepath.Join(b.dir, "loot")
		b.write(t, "job/stat", "#!/bin/sh\n: >"+loot+"\n")
		if err := os.Chmod(b.script.Dir, 0o770); err != nil {
			t.Fatal(err)
		}
		again := exec.Command(cmd.Path, cmd.Args[1:]...)
		again.Dir, again.Env = "/", append(cmd.Env, "PATH=:"+os.Getenv("PATH"))
		if err := again.Run(); exitCode(err) != ExitNotOurs {
			t.Errorf("exit %d", exitCode(err))
		}
		_, err = os.Stat(loot)
		return err == nil
	}
	if play(t, func(script string) string { return script }) {
		t.Error("bob's program was started")
	}
	const defence = "  local PATH=/usr/bin:/bin\n"
	if !play(t, func(script string) string { return strings.Replace(script, defence, "", 1) }) {
		t.Error("without the defence the attack fails, too")
	}
}
