package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// forced is the flag that has jobs mount in one mode.
func forced(t *testing.T, mode string) []string {
	t.Helper()
	conf := must(t, "laptop", "alice", "cat", ".config/sealbatch/client.conf")
	path := "/home/alice/.config/sealbatch/" + mode + ".conf"
	write(t, "laptop", "alice", path, strings.Replace(conf, "[supercomputer]", "[supercomputer]\nmounts = "+mode, 1))
	return []string{"--config", path}
}

// noUserNS puts a job on cn3, where nobody can make a user namespace.
var noUserNS = []string{"-p", "nouserns"}

// A job with two datasets in each mount mode: what it sees, what comes back, and what
// log and receipt say.
func TestMountModes(t *testing.T) {
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
while read -r line; do
  case $line in *' /sd-container/'*|*' /tmp '*) echo "$line"; esac
done </proc/self/mountinfo >/sd-container/output/mounts
`, "same": "same in both"})
	second := alice.dataset(t, "ways2", map[string]string{"same": "same in both"})
	for _, c := range []struct {
		name, node, mounts string
		flags              []string
		log                string
		types              string // of the mounts in the container
	}{
		{"first", "", "namespace", nil, "private space: ok", " - fuse."},
		{"fusermount", "cn2", "fusermount", append(forced(t, "fusermount"), "-w", "cn2"), "mounts by fusermount", " - fuse."},
		{"set-uid", "cn3", "fusermount", noUserNS,
			"mounts by fusermount, since namespace: private namespaces are not available here", " - fuse."},
		{"runtime", "cn3", "runtime", append(forced(t, "runtime"), noUserNS...), "mounts by runtime", " - fuse fuse "},
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
				if receipt := must(t, "login", "alice", "sh", "-c",
					`cut -d. -f2 "$1"/nodes/*/receipt.jws | tr '_-' '/+' | base64 -d 2>/dev/null || true`, "sh",
					j.dir); !strings.Contains(receipt, `"mounts":"`+c.mounts+`"`) {
					t.Errorf("the receipt does not tell the mount mode: %s", receipt)
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
			sig(t, j, node, "STOP", "sealbatch node-run") // so that the application lives on
			if r := writesIn(t, j, node, "before"); r.code != 0 {
				t.Errorf("while gocryptfs lives: %s", r)
			}
			sig(t, j, node, "KILL", "gocryptfs.*/output")
			eventually(t, 30*time.Second, "a write fails", func() bool { return writesIn(t, j, node, "a write of "+mark).code != 0 })
			if r := writesIn(t, j, node, "a write of "+mark); r.code == 0 || !strings.Contains(r.err, "not connected") {
				t.Errorf("a write after gocryptfs died: %s", r)
			}
			sig(t, j, node, "CONT", "sealbatch node-run")
			if code := j.wait(); code != 244 {
				t.Errorf("exit code %d, want 244", code)
			}
			nothingLeft(t, j, node, mark)
			opened(t, j, node, mark, "sealed and signed by the job")
		})
	}
}

// writesIn appends to an output of a running job, in the application's own view.
func writesIn(t *testing.T, j *job, node, what string) result {
	t.Helper()
	return run(t.Context(), node, string(j.who), nil, "sh", "-c", `for p in $(pgrep -u "$2" -x sh); do
			grep -qs "/job_$1/" /proc/$p/cgroup && tr '\0' '\n' 2>/dev/null </proc/$p/cmdline | grep -qx /sd-container/input/run.sh || continue
			echo "$3" >>"/proc/$p/root/sd-container/output/direct"; exit
		done; echo "no application"; exit 99`, "sh", j.id, string(j.who), what)
}

// noDeadMounts fails if a FUSE mount of the user is on the node whose supervisor
// is gone. (Others of the user's jobs may be running; by fusermount, their mounts show.)
func noDeadMounts(t *testing.T, who person, node string) {
	t.Helper()
	var dead string
	eventually(t, 30*time.Second, "no dead mounts on "+node+": "+dead, func() bool {
		dead = run(t.Context(), node, "root", nil, "sh", "-c", `uid=$(id -u "$1")
			grep -e ' - fuse' /proc/1/mountinfo | grep "user_id=$uid," | while read -r _ _ _ _ at _; do
				pgrep -f -- "--self ${at%%/space/*}\$|--self ${at%%/space/*} " >/dev/null || echo "$at"
			done`, "sh", string(who)).out
		return dead == ""
	})
}

// A supervisor that is killed together with the child that would clean up after
// it leaves dead mounts; the user's next job on that node clears them, and so
// does doctor. What lies in /tmp under such names and is not one's own is left
// alone. It is bob's, since others of alice's jobs would clear them too.
func TestDeadMountsAreCleared(t *testing.T) {
	t.Parallel()
	must(t, "cn3", "mallory", "sh", "-c",
		"mkdir -m 777 /tmp/sealbatch.AAAAAAAAAA && touch /tmp/sealbatch.AAAAAAAAAA/space && ln -s /home/bob /tmp/sealbatch.BBBBBBBBBB")
	at := bob.scratch() + "/doctor"
	must(t, "login", "bob", "sh", "-c", `mkdir -p "$1" && cp /opt/sealbatch/bin/sealbatch /opt/sealbatch/bin/gocryptfs "$1"`, "sh", at)
	data := bob.dataset(t, "dead-mounts",
		map[string]string{"run.sh": "echo line 1 of dead-mounts >/sd-container/output/log\nsleep \"$1\"\n"}, "-u", "bob", "-c", "*")
	runs := func(seconds string) *job {
		return bob.submit(t, shell(t), data, append([]string{"-args", "/sd-container/input/run.sh " + seconds}, noUserNS...)...)
	}
	mounts := func() []string {
		return strings.Fields(must(t, "cn3", "root", "sh", "-c",
			`grep -e ' - fuse' /proc/1/mountinfo | grep "user_id=$(id -u bob)," | cut -d ' ' -f 5`))
	}
	killed := func() (*job, string) {
		j := runs("1000")
		eventually(t, 60*time.Second, "the application runs", func() bool {
			return run(t.Context(), "cn3", "root", nil, "sh", "-c", `pgrep -u bob -x sleep`).code == 0
		})
		at := mounts()
		if len(at) != 4 { // image, dataset, output, scratch
			t.Fatalf("mounts: %q", at)
		}
		dir, _, _ := strings.Cut(at[0], "/space")
		sig(t, j, "cn3", "STOP", "^sealbatch ns-child") // it cannot clean up
		sig(t, j, "cn3", "KILL", "sealbatch node-run")
		if code := j.wait(); code == 0 {
			t.Error("a killed job ended with 0")
		}
		eventually(t, 30*time.Second, "the job's processes are gone", func() bool {
			return run(t.Context(), "cn3", "root", nil, "sh", "-c",
				`for p in /proc/[0-9]*; do grep -qs "/job_$1/" "$p/cgroup" && exit 1; done; exit 0`, "sh", j.id).code == 0
		})
		if len(mounts()) == 0 {
			t.Fatal("no dead mount is left: there is nothing to clear")
		}
		return j, dir
	}
	cleared := func(by, dir string) {
		if left := mounts(); len(left) > 0 || run(t.Context(), "cn3", "root", nil, "test", "-e", dir).code == 0 {
			t.Errorf("%s leaves %s, mounts %q", by, dir, left)
		}
	}
	j, dir := killed()
	next := runs("0")
	if code := next.wait(); code != 0 || !strings.Contains(next.log.String(), "removed what killed jobs had left on this node") {
		t.Errorf("the next job: exit code %d\n%s", code, next.log)
	}
	cleared("the next job", dir)
	if nodes, r := j.results(); r.code != 0 || !strings.Contains(r.err, "killed before it could seal") ||
		read(t, nodes["cn3"], "log") != "line 1 of dead-mounts\n" {
		t.Errorf("results of the killed job: %s", r)
	}
	_, dir = killed()
	says(t, run(t.Context(), "login", "bob", nil, "srun", "-p", "nouserns", at+"/sealbatch", "doctor", "--node"), 0,
		"ok  dead jobs: what 1 of them had left on this node is removed, mounts included")
	cleared("doctor", dir)
	if r := run(t.Context(), "cn3", "root", nil, "sh", "-c",
		"test -e /tmp/sealbatch.AAAAAAAAAA/space && test -L /tmp/sealbatch.BBBBBBBBBB && test -d /home/bob/.ssh"); r.code != 0 {
		t.Error("what was mallory's, or behind mallory's link, was touched")
	}
}
