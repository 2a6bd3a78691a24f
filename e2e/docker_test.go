package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// docker is a Docker daemon in the laptop's network, with this machine's programs. It has mount and process namespaces
// of its own, in which /run and /home are empty: there are its socket and a user's files, where they are for users.
type docker struct {
	pid string // of the daemon, as this machine has it
}

// daemon runs dockerd, for the group that HPCS's compose file names, until its input ends, however the tests end.
// Containers stand in the laptop's part of the cluster's cgroups, which goes with it.
const daemon = `mount -t tmpfs run /run && mount -t tmpfs home /home && mkdir /run/lock /run/ours || exit
dockerd --data-root "$1" --cgroup-parent "$2" --dns 10.77.0.2 --group 120 --userland-proxy=false \
  --log-level=error </dev/null &
exec cat`

// startDocker starts a daemon, and ends it with the test.
func startDocker(t *testing.T) docker {
	t.Helper()
	answerNames(t)
	laptop := "sealbatch-" + os.Getenv("SEALBATCH_CLUSTER") + "/laptop"
	c := exec.Command("nsenter", "--net="+laptopNetwork(), "unshare", "--mount", "--pid", "--fork", "--kill-child",
		"--mount-proc", "sh", "-c", daemon, "sh", filepath.Join(t.TempDir(), "docker"), "/"+laptop+"/docker")
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	in, err := c.StdinPipe()
	check(t, err)
	check(t, c.Start())
	t.Cleanup(func() {
		in.Close() // and the kernel ends all that is in the namespace
		c.Wait()
		if t.Failed() {
			t.Logf("dockerd:\n%s", log.Bytes())
		}
	})
	var d docker
	eventually(t, 30*time.Second, "dockerd answers", func() bool {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", c.Process.Pid))
		d.pid = strings.TrimSpace(string(children))
		return d.pid != "" && d.api(t, "_ping").code == 0
	})
	return d
}

// run runs a command beside the daemon, in a directory there.
func (d docker) run(ctx context.Context, dir string, argv ...string) result {
	enter := []string{"-t", d.pid, "-m", "-p", "-n", "sh", "-c", `cd "$1" && shift && exec "$@"`, "sh", dir}
	c := exec.CommandContext(ctx, "nsenter", append(enter, argv...)...)
	c.WaitDelay = 10 * time.Second
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	err := c.Run()
	if c.ProcessState == nil {
		return result{err: err.Error(), code: -1}
	}
	return result{out.String(), errOut.String(), c.ProcessState.ExitCode()}
}

func (d docker) must(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	r := d.run(t.Context(), dir, argv...)
	if r.code != 0 {
		t.Fatalf("%q: %s", argv, r)
	}
	return r.out
}

// api makes a call of the daemon's: not of this machine's own, which has no such directory.
func (d docker) api(t *testing.T, call string, flags ...string) result {
	t.Helper()
	curl := []string{"curl", "-sSf", "--unix-socket", "/run/docker.sock", "http://docker/" + call}
	return d.run(t.Context(), "/run/ours", append(curl, flags...)...)
}

// load is docker load.
func (d docker) load(t *testing.T, file string) {
	t.Helper()
	r := d.api(t, "images/load", "-X", "POST", "-H", "Content-Type: application/x-tar", "-T", file)
	if r.code != 0 || !strings.Contains(r.out, "Loaded image") {
		t.Fatalf("docker load of %s: %s", file, r)
	}
}

// laptopNetwork is the laptop's network namespace.
func laptopNetwork() string {
	return "/run/netns/sealbatch-" + os.Getenv("SEALBATCH_CLUSTER") + "-laptop"
}

// onLaptop calls listen in the laptop's network.
func onLaptop(t *testing.T, listen func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the function
		f, err := os.Open(laptopNetwork())
		if err == nil {
			defer f.Close()
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = listen()
		}
		done <- err
	}()
	check(t, <-done)
}

// answerNames is the cluster's name server: containers do not see the laptop's /etc/hosts.
func answerNames(t *testing.T) {
	t.Helper()
	var socket net.PacketConn
	onLaptop(t, func() (err error) {
		socket, err = net.ListenPacket("udp4", "10.77.0.2:53")
		return err
	})
	t.Cleanup(func() { socket.Close() })
	hosts := map[string][4]byte{"login.": {10, 77, 0, 3}, "keys.": {10, 77, 0, 6},
		"registry.example.com.": {10, 77, 0, 2}}
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := socket.ReadFrom(b)
			if err != nil {
				return
			}
			if a := answerName(b[:n], hosts); a != nil {
				socket.WriteTo(a, from)
			}
		}
	}()
}

func answerName(query []byte, hosts map[string][4]byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true},
		Questions: m.Questions}
	switch a, ok := hosts[strings.ToLower(q.Name.String())]; {
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}
		m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: a}}}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// put writes a file beside the daemon, for a user.
func (d docker) put(t *testing.T, uid int, mode os.FileMode, path string, content []byte) {
	t.Helper()
	path = filepath.Join("/proc", d.pid, "root", path)
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, content, 0o600))
	check(t, os.Chmod(path, mode))
	for _, p := range []string{path, filepath.Dir(path)} {
		check(t, os.Lchown(p, uid, uid))
	}
}
