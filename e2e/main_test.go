// Package e2e runs sealbatch on the test cluster: real sshd, Slurm, MUNGE,
// Apptainer, FUSE and gocryptfs. It needs root, and bin/ built (make e2e).
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	cluster  = "../testcluster/cluster"
	services = "../testcluster/services"
	project  = "/scratch/project_1" // root:project_1, 2770
)

// TestMain brings a cluster of its own up, with key service and verifier, and
// takes it down again, which fails if anything is left behind.
func TestMain(m *testing.M) {
	if os.Getenv("SEALBATCH_CLUSTER") == "" {
		os.Setenv("SEALBATCH_CLUSTER", "e2e")
	}
	code := 1
	err := setUp()
	if err == nil {
		code = m.Run()
	}
	if out, derr := exec.Command(cluster, "down").CombinedOutput(); derr != nil {
		err = errors.Join(err, fmt.Errorf("cluster down: %w\n%s", derr, out))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func setUp() error {
	for _, p := range []string{"sealbatch", "gocryptfs"} {
		if _, err := os.Stat(filepath.Join("../bin", p)); err != nil {
			return fmt.Errorf("%w: run make build first", err)
		}
	}
	// A cluster that an interrupted run left would hold that run's state.
	for _, c := range [][]string{{cluster, "down"}, {cluster, "up"}, {services, "up"}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(c, " "), err, out)
		}
	}
	for _, u := range []string{"alice", "bob", "mallory"} {
		if err := setUpUser(u); err != nil {
			return err
		}
	}
	return nil
}

func setUpUser(name string) error {
	conf := fmt.Sprintf("[hpcs-server]\nurl = https://keys:8443\nca-cert = /etc/sealbatch-keys-ca.pem\n"+
		"[supercomputer]\naddress = login\nusername = %s\n[trust]\nallowed-signers = /etc/sealbatch-signers\n", name)
	cmds := []struct {
		host, user, script, in string
	}{
		{"laptop", name, "mkdir -p ~/.config/sealbatch && cat >~/.config/sealbatch/client.conf", conf},
		// The only stranger to everybody is mallory.
		{"laptop", "root", "for u in alice bob; do echo \"$u namespaces=\\\"sealbatch-info\\\" $(cat " +
			"/home/$u/.ssh/id_ed25519.pub)\"; done >/etc/sealbatch-signers", ""},
	}
	// Login nodes greet, and start-up files trap, trace and print.
	cmds = append(cmds, struct{ host, user, script, in string }{"login", name, "cat >~/.bashrc", noisyStartUp})
	if name != "mallory" {
		cmds = append(cmds, struct{ host, user, script, in string }{"login", name, "mkdir -p " + project + "/" + name, ""})
	}
	for _, c := range cmds {
		if r := run(context.Background(), c.host, c.user, strings.NewReader(c.in), "sh", "-c", c.script); r.code != 0 {
			return fmt.Errorf("set up %s on %s: %s", name, c.host, r)
		}
	}
	return nil
}

// noisyStartUp is everybody's .bashrc at the site.
const noisyStartUp = `printf 'Welcome to the cluster\nYour quota: '
echo 'module: not found' >&2
alias env='echo env' sh='echo sh'
trap 'echo bye; exit 1' EXIT
set -x
`

// result is what a command on a host printed, and its exit status.
type result struct {
	out, err string
	code     int
}

func (r result) String() string { return fmt.Sprintf("exit %d\n%s%s", r.code, r.out, r.err) }

func run(ctx context.Context, host, user string, stdin io.Reader, argv ...string) result {
	c := command(ctx, host, user, argv...)
	var out, errOut bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = stdin, &out, &errOut
	err := c.Run()
	r := result{out.String(), errOut.String(), c.ProcessState.ExitCode()}
	if c.ProcessState == nil {
		r.err, r.code = err.Error(), -1
	}
	return r
}

func command(ctx context.Context, host, user string, argv ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, cluster, append([]string{"exec", host, "-u", user, "--"}, argv...)...)
	// SIGINT may be ignored in what starts the tests, and bash cannot trap what was ignored before it.
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 10 * time.Second
	return c
}

// background runs a command on a host until end is called or the test ends.
func background(t *testing.T, host, user string, argv ...string) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := command(ctx, host, user, argv...)
	if err := c.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		cancel()
		c.Wait()
	})
	t.Cleanup(end)
	return end
}

// must runs a command that has to succeed and returns what it printed.
func must(t *testing.T, host, user string, argv ...string) string {
	t.Helper()
	r := run(t.Context(), host, user, nil, argv...)
	if r.code != 0 {
		t.Fatalf("%s@%s %q: %s", user, host, argv, r)
	}
	return strings.TrimSpace(r.out)
}

// write puts a file on a host.
func write(t *testing.T, host, user, path, content string) {
	t.Helper()
	r := run(t.Context(), host, user, strings.NewReader(content), "sh", "-c", `mkdir -p "$(dirname "$1")" && cat >"$1" && case $1 in *.sh) chmod +x "$1" ;; esac`, "sh", path)
	if r.code != 0 {
		t.Fatalf("write %s on %s: %s", path, host, r)
	}
}

// onDisk is where this machine reaches a host's file.
func onDisk(t *testing.T, host, path string) string {
	t.Helper()
	out, err := exec.Command(cluster, "path", host, path).CombinedOutput()
	if err != nil {
		t.Fatalf("cluster path %s %s: %v\n%s", host, path, err, out)
	}
	return strings.TrimSpace(string(out))
}

// eventually waits until ok holds; what it waits for happens elsewhere.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", within, what)
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
