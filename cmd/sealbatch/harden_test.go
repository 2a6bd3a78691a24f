package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
)

// TestKeysStayInTheProcess: while a command that holds a key runs as an ordinary
// user, that user cannot trace it or read its memory, and it leaves no core file.
func TestKeysStayInTheProcess(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin, out := filepath.Join(dir, "sealbatch"), filepath.Join(dir, "out")
	copyProgram(t, "sealbatch", bin)
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 1<<40); err != nil { // takes longer than this test
		t.Fatal(err)
	}
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(out, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	sealed := filepath.Join(out, "sealed")
	recipient := newIdentity(t, filepath.Join(dir, "id"))
	if err := os.Chmod(recipient, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "seal", big, "-o", sealed, "-r", recipient)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s", &stderr)
		}
	}()
	untilGrown(t, cmd.Process.Pid)
	proc := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid))
	// The kernel gives the files of an undumpable process to root.
	st, err := os.Stat(filepath.Join(proc, "mem"))
	if err != nil {
		t.Fatal(err)
	}
	if uid := st.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("its memory belongs to user %d: it can be traced", uid)
	}
	limits, err := os.ReadFile(filepath.Join(proc, "limits"))
	if err != nil || !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("core files are not off: %v\n%s", err, limits)
	}
}

func copyProgram(t *testing.T, name, to string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	// By another process: of a file that this one had open for writing, a child that
	// another test is just starting may hold a copy, and it could not be run (ETXTBSY).
	if out, err := exec.Command("cp", path, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Chmod(to, 0o755); err != nil {
		t.Fatal(err)
	}
}
