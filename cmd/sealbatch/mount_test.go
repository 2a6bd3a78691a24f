package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
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
		"no terminal": func(cmd *exec.Cmd, _ string) error { return cmd.Process.Signal(syscall.SIGHUP) },
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
	run(t, exec.Command("ln", "-s", filepath.Join(target, "nowhere"), filepath.Join(dir, "leads-nowhere")))
	run(t, exec.Command("ln", "-s", "loop", filepath.Join(dir, "loop")))
	for _, c := range []struct {
		file, target, id string
		code             int
		want             string
	}{
		{"v.sealed", target, "other", 6, "none of the identities"},
		{"v.sealed", filepath.Join(target, "nowhere"), "id", 2, "hint: make one: mkdir " + target},
		{"v.sealed", filepath.Join(dir, "leads-nowhere"), "id", 2, "there is no directory"},
		{"v.sealed", filepath.Join(dir, "loop"), "id", 1, "too many links"},
		{"v.sealed", filepath.Join(dir, "tree"), "id", 2, "is not empty"},
		{"v.sealed", dir, "id", 2, "is not empty"}, // the volume itself is in it
		{"v.sealed", filepath.Join(dir, "v.sealed"), "id", 2, "is not a directory"},
		{"v.sealed", "/dev/null", "id", 2, "is not a directory"},
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

// TestInterruptedSeal sends Ctrl-C in the middle, or kills: nothing stays under the final
// name, nor beside it.
func TestInterruptedSeal(t *testing.T) {
	t.Parallel()
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM, os.Kill} {
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
			cmd := exec.Command("sealbatch", "seal", big, "-o", out, "-r", id, "--force")
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			untilGrown(t, cmd.Process.Pid)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			code, says := 130, "interrupted"
			if sig == os.Kill {
				code, says = -1, ""
			}
			var status *exec.ExitError
			if err := wait(t, ended); !errors.As(err, &status) || status.ExitCode() != code {
				t.Errorf("ended with %v, want exit code %d", err, code)
			}
			if stdout.Len() > 0 || !strings.Contains(stderr.String(), says) {
				t.Errorf("standard output %q, error %q", &stdout, &stderr)
			}
			if left, _ := filepath.Glob(out + "?*"); len(left) > 0 {
				t.Errorf("the half-made file stays: %q", left)
			}
			if b, err := os.ReadFile(out); err != nil || string(b) != "an older one" {
				t.Errorf("under the final name: %.20q, %v", b, err)
			}
		})
	}
}

// untilGrown waits until a process has written something to a file that has no name yet.
func untilGrown(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range open {
			to, err := os.Readlink(fd)
			if st, serr := os.Stat(fd); err == nil && serr == nil && strings.HasSuffix(to, " (deleted)") && st.Size() > 0 {
				return
			}
		}
	}
	t.Fatalf("process %d writes nothing", pid)
}

// TestMountTwice: a directory takes one volume. By whatever name it was mounted, and wherever the directory is moved
// meanwhile, it is unmounted in the end.
func TestMountTwice(t *testing.T) {
	t.Parallel()
	dir := sealTree(t)
	target, link := filepath.Join(dir, "above", "point"), filepath.Join(dir, "link")
	if err := errors.Join(os.MkdirAll(target, 0o755), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	cmd, ended := mounted(t, dir, link)
	for _, name := range []string{target, link} {
		again := exec.Command("sealbatch", "mount", filepath.Join(dir, "v.sealed"), name, "-i", filepath.Join(dir, "id"))
		out, err := again.CombinedOutput()
		if again.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "is mounted on "+target+" already\nhint: ") {
			t.Errorf("%s, a second time: %v\n%s", name, err, out)
		}
	}
	if err := os.Rename(filepath.Join(dir, "above"), filepath.Join(dir, "renamed")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cmd.Process.Signal(os.Interrupt), wait(t, ended)); err != nil {
		t.Error(err)
	}
	if renamed := filepath.Join(dir, "renamed", "point"); isMounted(t, target) || isMounted(t, renamed) {
		t.Error("it is still mounted")
	}
}

// TestMountAfterKill: what a killed server left mounted is cleared away by the next one, by whatever name.
func TestMountAfterKill(t *testing.T) {
	t.Parallel()
	dir := sealTree(t)
	target, link := t.TempDir(), filepath.Join(dir, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{target, link} {
		cmd, ended := mounted(t, dir, target)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = wait(t, ended)
		t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) })
		if _, err := os.ReadDir(target); !isMounted(t, target) || !errors.Is(err, syscall.ENOTCONN) {
			t.Fatalf("killing its server leaves no dead mount: %v", err)
		}
		next := exec.Command("sealbatch", "mount", filepath.Join(dir, "v.sealed"), name, "-i", filepath.Join(dir, "id"))
		said := startMount(t, next)
		if line := said(); !strings.Contains(line, "cleared away") {
			t.Errorf("it says %q", line)
		}
		if line := said(); !strings.Contains(line, "is mounted on "+name) {
			t.Errorf("it says %q", line)
		}
		if err := errors.Join(next.Process.Signal(os.Interrupt), next.Wait()); err != nil || isMounted(t, target) {
			t.Errorf("the next one ended with %v", err)
		}
	}
}

// startMount starts a command and returns how to read the next line of its standard error.
func startMount(t *testing.T, cmd *exec.Cmd) (next func() string) {
	t.Helper()
	pipe, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	lines := bufio.NewReader(pipe)
	return func() string {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		return line
	}
}

// TestUnmountInUse: what is in use is taken out of the way at once, and served until it is let go.
func TestUnmountInUse(t *testing.T) {
	t.Parallel()
	dir, target := sealTree(t), t.TempDir()
	cmd := exec.Command("sealbatch", "mount", filepath.Join(dir, "v.sealed"), target, "-i", filepath.Join(dir, "id"))
	said := startMount(t, cmd)
	said()
	f, err := os.Open(filepath.Join(target, "genome"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if line := said(); !strings.Contains(line, "is still in use") {
		t.Errorf("it says %q", line)
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, bytes.Repeat([]byte("ACGT"), 50_000)) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	f.Close()
	if err := cmd.Wait(); err != nil || isMounted(t, target) {
		t.Errorf("it ended with %v", err)
	}
}

// TestMountUnheard: that nobody reads its notices any more ends no mount.
func TestMountUnheard(t *testing.T) {
	t.Parallel()
	dir, target := sealTree(t), t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command("sealbatch", "mount", filepath.Join(dir, "v.sealed"), target, "-i", filepath.Join(dir, "id"))
	cmd.Stderr = w
	if err := errors.Join(cmd.Start(), w.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && !isMounted(t, target); {
		time.Sleep(time.Millisecond)
	}
	if _, err := os.ReadFile(filepath.Join(target, "genome")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil || isMounted(t, target) {
		t.Errorf("it ended with %v", err)
	}
}

// TestMountCovered: under another mount it stays, and that is said, not the contrary. It runs in a namespace of its own,
// where anybody may mount.
func TestMountCovered(t *testing.T) {
	t.Parallel()
	dir := sealTree(t)
	script := `mkdir "$0/point" && mkfifo "$0/says" && cd "$0" || exit 99
sealbatch mount v.sealed point -i id 2>says &
exec 3<says && read -r line <&3 || exit 98
mount -t tmpfs none point && kill -INT $! || exit 97
cat <&3
wait $!`
	out, err := exec.Command("unshare", "-rm", "sh", "-c", script, dir).CombinedOutput()
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != 130 {
		t.Errorf("it ended with %v", err)
	}
	if text := string(out); strings.Contains(text, "no longer mounted") || !strings.Contains(text, "point stays mounted, ") ||
		!strings.Contains(text, "something else is mounted over "+dir+"/point") {
		t.Errorf("it says\n%s", out)
	}
}
