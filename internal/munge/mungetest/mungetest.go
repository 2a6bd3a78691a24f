// Package mungetest runs real munged daemons for tests: one for each host
// that a test pretends to have, all sharing one realm's key.
package mungetest

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Realm is a MUNGE realm of the test's own.
type Realm struct{ key string }

// NewRealm returns a realm with a fresh key.
func NewRealm(t testing.TB) Realm {
	t.Helper()
	b := make([]byte, 128)
	rand.Read(b)
	p := filepath.Join(t.TempDir(), "munge.key")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return Realm{p}
}

// Host starts a munged that calls itself origin, an IPv4 address, and returns
// its socket. It ends with the test.
func (r Realm) Host(t testing.TB, origin string) (socket string) {
	t.Helper()
	return r.host(t, origin)
}

// HostWithClock is Host on a host whose clock is ahead of this machine's, or
// behind if ahead is negative. It needs the package libfaketime.
func (r Realm) HostWithClock(t testing.TB, origin string, ahead time.Duration) (socket string) {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
	if err != nil || len(found) == 0 {
		t.Fatalf("libfaketime, of the package libfaketime, is needed here: %v", err)
	}
	return r.host(t, origin, "LD_PRELOAD="+found[0], fmt.Sprintf("FAKETIME=%+d", int(ahead/time.Second)), "FAKETIME_DONT_FAKE_MONOTONIC=1")
}

func (r Realm) host(t testing.TB, origin string, env ...string) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "munge") // t.TempDir() may exceed a socket path's length
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// Other users of the test reach the socket.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	socket = in("socket")
	c := exec.Command("/usr/sbin/munged", "--force", "--foreground", "--key-file="+r.key, "--socket="+socket,
		"--pid-file="+in("pid"), "--seed-file="+in("seed"), "--log-file="+in("log"), "--origin="+origin)
	c.Env = append(os.Environ(), env...)
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatalf("munged, of the package munge, is needed here: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Process.Kill(); err != nil {
			t.Errorf("stop munged: %v", err)
		}
		c.Wait()
	})
	lines := bufio.NewScanner(stderr)
	var log []string
	for lines.Scan() {
		log = append(log, lines.Text())
		if strings.Contains(lines.Text(), "work threads") {
			go func() {
				for lines.Scan() { // keep its pipe empty
				}
			}()
			return socket
		}
	}
	t.Fatalf("munged did not start:\n%s", strings.Join(log, "\n"))
	return ""
}

// Credential runs munge as an unprivileged user, which a test run by root
// else could not be, and returns the credential with that user's id.
func Credential(t testing.TB, socket string, payload []byte, args ...string) (credential string, uid uint32) {
	t.Helper()
	uid = uint32(os.Geteuid())
	args = append([]string{"--socket=" + socket}, args...)
	if uid == 0 {
		uid = 65534
		args = append(args, "--uid=65534", "--gid=65534")
	}
	c := exec.Command("/usr/bin/munge", args...)
	c.Stdin = strings.NewReader(string(payload))
	out, err := c.Output()
	if err != nil {
		t.Fatalf("munge: %v", err)
	}
	return strings.TrimSpace(string(out)), uid
}
