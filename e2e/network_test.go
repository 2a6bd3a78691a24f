package e2e

import (
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// leaks is an application, or a check, that says which way out of the node it has.
const leaks = `set -u
found=none
while read -r name rest; do
	case $name in lo:|Inter-*|face) ;; *:*) found="the interface $name";; esac
done </proc/net/dev
if (exec 3<>/dev/tcp/10.77.0.3/22) 2>/dev/null; then found="$found, and the login node answers"; fi
while read -r a b c d e f g name; do
	case ${name:-} in @*) found="$found, and the abstract socket $name";; esac
done </proc/net/unix
echo "$0 finds $found"
`

// found are what an application and its checks found, joined.
func (j *job) found() (found string, log string) {
	j.t.Helper()
	code := j.wait()
	nodes, r := j.results()
	if code != 0 || r.code != 0 || len(nodes) != 1 {
		j.t.Fatalf("exit code %d; results: %s", code, r)
	}
	for _, dir := range nodes {
		found = read(j.t, dir, "stdout")
		log = read(j.t, dir, "sealbatch.log")
	}
	return found, log
}

// An owner demands that data are opened without a network only. The job gets none, in
// each mount mode, its checks included, and works all the same.
func TestNetworkNone(t *testing.T) {
	t.Parallel()
	demanding := alice.dataset(t, "closed", map[string]string{"run.sh": leaks}, "-u", "alice", "-c", "*", "--network", "none")
	write(t, "login", "alice", alice.scratch()+"/leaks/check.sh", leaks)
	for name, flags := range map[string][]string{
		"namespace":  forced(t, "namespace"),
		"fusermount": append(forced(t, "fusermount"), noUserNS...),
		"runtime":    append(forced(t, "runtime"), noUserNS...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := alice.submit(t, shell(t), demanding, append(flags, "-i", alice.scratch()+"/leaks")...)
			found, log := j.found()
			if !strings.HasSuffix(found, "finds none\n") || !strings.Contains(log, "check.sh finds none\n") {
				t.Errorf("the application: %s\nthe check: %s", found, log)
			}
			if !strings.Contains(j.log.String(), "the job runs without a network") {
				t.Errorf("the submitter is not told: %s", j.log)
			}
		})
	}
	t.Run("asked for", func(t *testing.T) {
		t.Parallel()
		data := alice.dataset(t, "open", map[string]string{"run.sh": leaks})
		if found, _ := alice.submit(t, shell(t), data, "--network", "none").found(); !strings.HasSuffix(found, "finds none\n") {
			t.Errorf("the application: %s", found)
		}
	})
}

// The application sends what it reads to another host. Without the flags for the
// container it can.
func TestAttackNetwork(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "sent", map[string]string{"run.sh": leaks}, "-u", "alice", "-c", "*", "--network", "none")
	if found, _ := alice.submit(t, shell(t), data).found(); strings.Contains(found, "answers") || strings.Contains(found, "interface") {
		t.Errorf("the attack succeeds: %s", found)
	}
	conf := must(t, "laptop", "alice", "cat", ".config/sealbatch/client.conf")
	path := "/home/alice/.config/sealbatch/open-network.conf"
	write(t, "laptop", "alice", path, strings.Replace(conf, "[supercomputer]",
		"[supercomputer]\nsetup = export SEALBATCH_OFF='container without network'", 1))
	j := alice.submitWith(t, weakPrograms(t)+"/sealbatch", shell(t), data, "--config", path)
	if found, _ := j.found(); !strings.Contains(found, "answers") || !strings.Contains(found, "interface") {
		t.Errorf("without its flags the container has no network either: %s", found)
	}
}

// A submitter asks for a job with a network where the owner demands one without.
// job-prep would not; this one's was patched.
func TestAttackNetworkOfManifest(t *testing.T) {
	t.Parallel()
	attack{without: []string{"policy's network"}, says: "its policy demands a job without a network",
		play: func(t *testing.T, w *world) outcome {
			p := openTo("alice")
			p.Network = manifest.NetworkNone
			return w.claimsAlice(t, w.stakeOf(t, p, nil))
		}}.run(t)
}
