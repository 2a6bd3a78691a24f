package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// forced is the flag that has jobs mount by one way.
func forced(t *testing.T, way string) []string {
	t.Helper()
	conf := must(t, "laptop", "alice", "cat", ".config/sealbatch/client.conf")
	path := "/home/alice/.config/sealbatch/" + way + ".conf"
	write(t, "laptop", "alice", path, strings.Replace(conf, "[supercomputer]", "[supercomputer]\nmounts = "+way, 1))
	return []string{"--config", path}
}

// noUserNS puts a job on cn3, where nobody can make a user namespace.
var noUserNS = []string{"-p", "nouserns"}

// A job with two datasets by each way: what it sees, what comes back, and what
// log and receipt say.
func TestWays(t *testing.T) {
	t.Parallel()
	first := alice.dataset(t, "ways", map[string]string{"run.sh": `set -eu
test "$(cat /sd-container/encrypted/ways2/same)" = "same in both"
test "$(cat /sd-container/input/same)" = "same in both"
for d in /sd-container /sd-container/encrypted /sd-container/input /sd-container/encrypted/ways2; do
	if (echo x >"$d/x") 2>/dev/null; then echo "$d takes files"; exit 9; fi
done
for d in "$HOME" /tmp /var/tmp /dev/shm /sd-container/scratch /sd-container/output; do echo x >"$d/probe"; done
mkdir /sd-container/output/tree; echo deep of a ways job >/sd-container/output/tree/file
echo "$SLURMD_NODENAME" >/sd-container/output/node
while read -r line; do case $line in *' /sd-container/'*|*' /tmp '*) echo "$line"; esac; done </proc/self/mountinfo >/sd-container/output/mounts
`, "same": "same in both"})
	second := alice.dataset(t, "ways2", map[string]string{"same": "same in both"})
	for _, c := range []struct {
		name, node, mounts string
		flags              []string
		log                string
		types              string // of the mounts in the container
	}{
		{"first", "", "way 1 (namespace)", nil, "private space: ok", " - fuse."},
		{"fusermount", "cn2", "way 2 (fusermount)", append(forced(t, "fusermount"), "-w", "cn2"), "mounts by way 2 (fusermount)", " - fuse."},
		{"set-uid", "cn3", "way 2 (fusermount)", noUserNS, "mounts by way 2 (fusermount), since way 1 (namespace): private namespaces are not available here", " - fuse."},
		{"runtime", "cn3", "way 3 (runtime)", append(forced(t, "runtime"), noUserNS...), "mounts by way 3 (runtime)", " - fuse fuse "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			j := alice.submit(t, shell(t), first, append([]string{"-di", second}, c.flags...)...)
			code := j.wait()
			nodes, r := j.results()
			if code != 0 || r.code != 0 || len(nodes) != 1 || !strings.Contains(r.err, "completed, exit code 0; sealed and signed by the job") {
				for _, dir := range nodes {
					b, _ := os.ReadFile(filepath.Join(dir, "stderr"))
					t.Errorf("stderr: %s", b)
				}
				t.Fatalf("exit code %d; results: %s", code, r)
			}
			for node, dir := range nodes {
				if c.node != "" && node != c.node {
					t.Errorf("it ran on %s", node)
				}
				if got := read(t, dir, "tree/file") + read(t, dir, "node"); got != "deep of a ways job\n"+node+"\n" {
					t.Errorf("results: %q", got)
				}
				mounts := read(t, dir, "mounts")
				for _, at := range []string{" /sd-container/output ", " /sd-container/encrypted/ways ", " /sd-container/encrypted/ways2 ", " /tmp "} {
					line := mounts[max(0, strings.LastIndex(mounts, at)):]
					if line, _, _ = strings.Cut(line, "\n"); !strings.Contains(line, c.types) {
						t.Errorf("in the container, %s is mounted as %q, want %q", at, line, c.types)
					}
				}
				if receipt := must(t, "login", "alice", "sh", "-c", `cut -d. -f2 "$1"/nodes/*/receipt.jws | tr '_-' '/+' | base64 -d 2>/dev/null || true`, "sh", j.dir); !strings.Contains(receipt, `"mounts":"`+c.mounts+`"`) {
					t.Errorf("the receipt does not tell the way: %s", receipt)
				}
				nothingLeft(t, j, node, "a ways job")
			}
			if !strings.Contains(j.log.String(), c.log) {
				t.Errorf("the log does not say %q:\n%s", c.log, j.log)
			}
		})
	}
}

// sig sends a signal to one kind of process of a job, found by its arguments.
func sig(t *testing.T, j *job, node, signal, pattern string) {
	t.Helper()
	must(t, node, "root", "sh", "-c", `n=0
		for p in $(pgrep -f "$2"); do
			grep -qsz "^SLURM_JOB_ID=$1$" /proc/$p/environ || grep -qs "/job_$1/" /proc/$p/cgroup || continue
			kill -"$3" "$p" && n=1
		done; [ "$n" = 1 ]`, "sh", j.id, pattern, signal)
}

// What an application writes once its FUSE server is dead fails, and lands
// nowhere: not beneath the mount, not in the clear.
func TestWriteAfterFUSEDeath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		flags []string
	}{
		{"namespace", forced(t, "namespace")},
		{"fusermount", append(forced(t, "fusermount"), noUserNS...)},
		{"runtime", append(forced(t, "runtime"), noUserNS...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			mark := "fuse-death-" + c.name
			j, node := startEndless(t, mark, c.flags...)
			sig(t, j, node, "KILL", "gocryptfs.*/output")
			if code := j.wait(); code != 244 {
				t.Errorf("exit code %d, want 244", code)
			}
			nothingLeft(t, j, node, mark)
			opened(t, j, node, mark, "sealed and signed by the job")
		})
	}
}

// A supervisor that is killed together with the child that would clean up after
// it leaves dead mounts; the user's next job on that node clears them. What lies
// in /tmp under such names and is not one's own is left alone.
func TestDeadMountsAreCleared(t *testing.T) {
	t.Parallel()
	must(t, "cn3", "mallory", "sh", "-c", "mkdir -m 777 /tmp/sealbatch.AAAAAAAAAA && touch /tmp/sealbatch.AAAAAAAAAA/space && ln -s /home/alice /tmp/sealbatch.BBBBBBBBBB")
	mark := "dead-mounts"
	j, node := startEndless(t, mark, noUserNS...)
	dir := must(t, node, "root", "sh", "-c", `for p in $(pgrep -f 'sealbatch node-run'); do
		grep -qsz "^SLURM_JOB_ID=$1$" /proc/$p/environ && tr '\0' '\n' </proc/$p/cmdline | grep -A1 -x -e --self | tail -n 1; done | head -n 1`, "sh", j.id)
	if !strings.HasPrefix(dir, "/") {
		t.Fatalf("the job's own directory: %q", dir)
	}
	mounts := func() string {
		return must(t, node, "root", "sh", "-c", `grep -c " $1/" /proc/1/mountinfo || true`, "sh", dir)
	}
	if mounts() == "0" {
		t.Fatalf("nothing is mounted in %s", dir)
	}
	// The child is the sealbatch without arguments to speak of, and stopped it cannot clean up.
	sig(t, j, node, "STOP", "^sealbatch ns-child")
	sig(t, j, node, "KILL", "sealbatch node-run")
	if code := j.wait(); code == 0 {
		t.Error("a killed job ended with 0")
	}
	eventually(t, 30*time.Second, "the job's processes are gone", func() bool {
		return run(t.Context(), node, "root", nil, "sh", "-c", `for p in /proc/[0-9]*; do grep -qs "/job_$1/" "$p/cgroup" && exit 1; done; exit 0`, "sh", j.id).code == 0
	})
	if mounts() == "0" {
		t.Fatal("no dead mount is left: there is nothing to clear")
	}
	data := alice.dataset(t, "next-job", map[string]string{"run.sh": "echo next\n"})
	next := alice.submit(t, shell(t), data, noUserNS...)
	if code := next.wait(); code != 0 || !strings.Contains(next.log.String(), "removed what killed jobs had left on this node") {
		t.Errorf("the next job: exit code %d\n%s", code, next.log)
	}
	if mounts() != "0" || run(t.Context(), node, "root", nil, "test", "-e", dir).code == 0 {
		t.Errorf("%s is still there", dir)
	}
	if r := run(t.Context(), node, "root", nil, "sh", "-c", "test -e /tmp/sealbatch.AAAAAAAAAA/space && test -L /tmp/sealbatch.BBBBBBBBBB && test -d /home/alice/.ssh"); r.code != 0 {
		t.Error("what was mallory's, or behind mallory's link, was touched")
	}
	opened(t, j, node, mark, "killed before it could seal; what it had written is recovered")
}
