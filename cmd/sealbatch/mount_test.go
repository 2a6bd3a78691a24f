package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sealTree makes an age identity and a sealed volume with one file, and returns
// the directory that holds them as id and v.sealed.
func sealTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tree", "genome"), bytes.Repeat([]byte("ACGT"), 50_000), 0o640); err != nil {
		t.Fatal(err)
	}
	id := newIdentity(t, filepath.Join(dir, "id"))
	run(t, exec.Command("sealbatch", "seal", filepath.Join(dir, "tree"), "-o", filepath.Join(dir, "v.sealed"), "-r", id))
	return dir
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// mounted starts `sealbatch mount` and returns when the volume is mounted.
func mounted(t *testing.T, dir, target string) (cmd *exec.Cmd, ended chan error) {
	t.Helper()
	cmd = exec.Command("sealbatch", "mount", filepath.Join(dir, "v.sealed"), target, "-i", filepath.Join(dir, "id"))
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil { // the test failed: leave no mount behind
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	})
	line, err := bufio.NewReader(pipe).ReadString('\n')
	if err != nil || !strings.Contains(line, "is mounted on "+target) {
		t.Fatalf("sealbatch mount said %q, %v", line, err)
	}
	ended = make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, pipe)
		ended <- errors.Join(err, cmd.Wait())
	}()
	return cmd, ended
}

func wait(t *testing.T, ended chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		t.Fatal("it did not end")
		return nil
	}
}

func isMounted(t *testing.T, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(b, []byte(" "+dir+" "))
}

// TestMount needs /dev/fuse, as root or with fusermount3.
func TestMount(t *testing.T) {
	t.Parallel()
	dir := sealTree(t)
	for name, unmount := range map[string]func(cmd *exec.Cmd, target string) error{
		"Ctrl-C":      func(cmd *exec.Cmd, _ string) error { return cmd.Process.Signal(os.Interrupt) },
		"SIGTERM":     func(cmd *exec.Cmd, _ string) error { return cmd.Process.Signal(syscall.SIGTERM) },
		"fusermount3": func(_ *exec.Cmd, target string) error { return exec.Command("fusermount3", "-u", target).Run() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := t.TempDir()
			cmd, ended := mounted(t, dir, target)
			got, err := os.ReadFile(filepath.Join(target, "genome"))
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte("ACGT"), 50_000)) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
				t.Errorf("writing: %v, want EROFS", err)
			}
			if err := unmount(cmd, target); err != nil {
				t.Fatal(err)
			}
			if err := wait(t, ended); err != nil {
				t.Errorf("sealbatch mount ended with %v", err)
			}
			if isMounted(t, target) {
				t.Error("it is still mounted")
			}
		})
	}
}

// TestMountRefuses tells what is wrong, mounts nothing and ends with the documented code.
func TestMountRefuses(t *testing.T) {
	t.Parallel()
	dir := sealTree(t)
	newIdentity(t, filepath.Join(dir, "other"))
	target := t.TempDir()
	for _, c := range []struct {
		file, target, id string
		code             int
		want             string
	}{
		{"v.sealed", target, "other", 6, "none of the identities"},
		{"v.sealed", filepath.Join(target, "nowhere"), "id", 1, "fusermount3"},
		{"id", target, "id", 7, "not a sealed volume"},
		{"nowhere", target, "id", 1, "no such file"},
	} {
		cmd := exec.Command("sealbatch", "mount", filepath.Join(dir, c.file), c.target, "-i", filepath.Join(dir, c.id))
		out, err := cmd.CombinedOutput()
		var ended *exec.ExitError
		if !errors.As(err, &ended) || ended.ExitCode() != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("mount %s on %s with %s: %v\n%s", c.file, c.target, c.id, err, out)
		}
		if isMounted(t, c.target) {
			t.Errorf("%s is mounted", c.target)
		}
	}
}

// TestInterruptedSeal sends Ctrl-C in the middle: nothing stays under the final
// name, nor beside it.
func TestInterruptedSeal(t *testing.T) {
	t.Parallel()
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			id := newIdentity(t, filepath.Join(dir, "id"))
			// A hole of a terabyte: sealed as zeros, which no machine does in a second.
			big := filepath.Join(dir, "big")
			if err := os.WriteFile(big, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(big, 1<<40); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(dir, "big.sealed")
			if err := os.WriteFile(out, []byte("an older one"), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			cmd := exec.Command("sealbatch", "seal", big, "-o", out, "-r", id)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			untilGrown(t, out+".partial")
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			var status *exec.ExitError
			if err := wait(t, ended); !errors.As(err, &status) || status.ExitCode() != 130 {
				t.Errorf("ended with %v, want exit code 130", err)
			}
			if stdout.Len() > 0 || !strings.Contains(stderr.String(), "interrupted") {
				t.Errorf("standard output %q, error %q", &stdout, &stderr)
			}
			if _, err := os.Lstat(out + ".partial"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the half-made file stays: %v", err)
			}
			if b, err := os.ReadFile(out); err != nil || string(b) != "an older one" {
				t.Errorf("under the final name: %.20q, %v", b, err)
			}
		})
	}
}

// untilGrown waits until something has been written to a file.
func untilGrown(t *testing.T, path string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if st, err := os.Stat(path); err == nil && st.Size() > 0 {
			return
		}
	}
	t.Fatalf("%s is not being written", path)
}
