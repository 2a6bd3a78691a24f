package e2e

import (
	"context"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Uploads that are cut once their first segment of 64 MiB has arrived, which need not be sent again. A
// connection has four pieces of 1 MiB on their way at once.
const (
	cutSize  = 76 << 20 // of the plaintext; the sealed file is a little larger
	cutAt    = 70 << 20
	cutBytes = cutSize + 12<<20 // to login, in all, if no segment is sent twice
)

// cutUpload is a data-prep that has come half-way, through a relay.
type cutUpload struct {
	*launched
	relay *relay
	name  string
	args  []string
}

func startCut(t *testing.T, name, host string, ssh ...string) *cutUpload {
	t.Helper()
	r := newRelay(t, host, cutAt)
	conf := r.conf(t, ".config/sealbatch/client.conf", name, ssh...)
	// On a busy machine answers take long enough for more connections, whose pieces would leave gaps in the first segment.
	must(t, "laptop", "alice", "sed", "-i", "s,^username,connections = 1\\n&,", conf)
	u := &cutUpload{relay: r, name: name, args: []string{"data-prep", "--config", conf, "-i", "data/cuts",
		"--data-path", "data/" + name + ".sealed", "--data-path-at-rest", alice.scratch(), "-u", "alice", "-c", "*"}}
	u.launched = launch(t, u.args...)
	t.Cleanup(func() {
		u.cmd.Cancel()
		u.wait()
		for _, host := range []string{"laptop", "login"} { // it is large
			run(context.Background(), host, "alice", nil, "sh", "-c", `rm -f "data/$1.sealed" "$2/$1.sealed"*`, "sh", name, alice.scratch())
		}
	})
	r.waitHeld(t)
	u.onlyPartial(t)
	return u
}

// onlyPartial fails if anything has a final name.
func (u *cutUpload) onlyPartial(t *testing.T) {
	t.Helper()
	got := onSite(t, alice.scratch(), u.name+".sealed")
	if len(got) == 0 || slices.ContainsFunc(got, func(name string) bool { return !strings.HasSuffix(name, ".partial") }) {
		t.Errorf("on the site: %q", got)
	}
}

// arrived checks what has arrived, that it opens, and that what had arrived before was not sent again.
func (u *cutUpload) arrived(t *testing.T) {
	t.Helper()
	arrivedWhole(t, u.name)
	alice.mustSB(t, "verify", "data/"+u.name+".sealed", "-i", ".ssh/id_ed25519")
	if n := u.relay.bytes(); n < cutSize || n > cutBytes {
		t.Errorf("%d bytes were sent, want %d to %d", n, cutSize, cutBytes)
	}
}

// again runs the same command, which has to go on.
func (u *cutUpload) again(t *testing.T) {
	t.Helper()
	r := alice.sb(t, u.args...)
	if r.code != 0 || !strings.Contains(r.err, "going on with the sealed file of an earlier run") {
		t.Errorf("again: %s", r)
	}
	u.arrived(t)
}

func route(t *testing.T, verb, one, other string) {
	t.Helper()
	if out, err := exec.Command(cluster, verb, one, other).CombinedOutput(); err != nil {
		t.Fatalf("cluster %s %s %s: %v\n%s", verb, one, other, err, out)
	}
}

// TestCutUploads cuts uploads half-way. Each ends well, by itself or by the same command, and what has
// arrived is not sent again.
func TestCutUploads(t *testing.T) {
	t.Parallel()
	must(t, "laptop", "alice", "sh", "-c", `mkdir -p data/cuts && head -c "$1" /dev/urandom >data/cuts/x`, "sh", strconv.Itoa(cutSize))
	t.Cleanup(func() { run(context.Background(), "laptop", "alice", nil, "rm", "-r", "data/cuts") })
	t.Run("connection reset", func(t *testing.T) {
		t.Parallel()
		u := startCut(t, "cut-reset", "laptop")
		u.relay.cut()
		if u.wait() != 0 || !strings.Contains(u.out.String(), "the connection broke; trying again") {
			t.Errorf("%s", u.out.String())
		}
		u.arrived(t)
	})
	t.Run("no route for a while", func(t *testing.T) {
		t.Parallel()
		// The way leads over cn3, since others need that from the laptop to login.
		u := startCut(t, "cut-route", "cn3", "ServerAliveInterval 2")
		route(t, "cut", "laptop", "cn3")
		t.Cleanup(func() { exec.Command(cluster, "join", "laptop", "cn3").Run() })
		eventually(t, 2*time.Minute, "data-prep finds no way",
			func() bool { return strings.Contains(u.out.String(), "cannot connect to 10.77.0.7") })
		route(t, "join", "laptop", "cn3")
		u.relay.cut()
		if u.wait() != 0 {
			t.Errorf("%s", u.out.String())
		}
		u.arrived(t)
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		u := startCut(t, "cut-killed", "laptop")
		signalled(t, "KILL", "data/cut-killed.sealed")
		u.wait()
		u.onlyPartial(t)
		u.relay.cut()
		u.again(t)
		r := alice.sb(t, "job-prep", "-ai", shell(t), "-di", alice.scratch()+"/cut-killed.sealed.info.yaml", "-t", "10", "--seal-time", "60",
			"--workdir", alice.scratch(), "-args", "/bin/true", "--no-submit")
		if r.code != 0 {
			t.Errorf("nobody can run on it: %s", r)
		}
	})
	t.Run("interrupted while the line hangs", func(t *testing.T) {
		t.Parallel()
		u := startCut(t, "cut-int", "laptop")
		signalled(t, "INT", "data/cut-int.sealed")
		if code := u.wait(); code != 130 || !strings.Contains(u.out.String(), "hint: the same command goes on where this one stopped") {
			t.Errorf("exit %d\n%s", code, u.out.String())
		}
		u.onlyPartial(t)
		u.relay.cut()
		// The relay is no way around the check of host keys.
		must(t, "laptop", "alice", "sh", "-c", `printf 'login %s\n' "$(cut -d' ' -f1,2 .ssh/id_ed25519.pub)" >relay/other-hosts &&
			sed 's,^username,known-hosts = ~/relay/other-hosts\n&,' relay/cut-int.conf >relay/cut-other.conf`)
		other := append([]string{u.args[0], "--config", "relay/cut-other.conf"}, u.args[3:]...)
		told(t, alice.sb(t, other...), 4, "someone may be in between", "only if the site announced new keys")
		u.again(t)
	})
}
