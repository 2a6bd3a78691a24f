package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

// busy is a job of alice's whose application waits, seen from its node.
type busy struct {
	job                   *job
	node, supervisor, app string // app and supervisor are process ids
}

const secretOfNode = "the patient's name is Carol"

// waits submits such a job with programs of the world's.
func (w *world) waits(t *testing.T, data string, flags ...string) busy {
	t.Helper()
	conf := "/home/alice/without-" + strings.ReplaceAll(strings.Join(w.off, "-"), " ", "-") + ".conf"
	write(t, "laptop", "alice", conf, strings.Replace(must(t, "laptop", "alice", "cat", ".config/sealbatch/client.conf"),
		"[trust]", "setup = export SEALBATCH_OFF=\""+strings.Join(w.off, ",")+"\"\n[trust]", 1))
	b := busy{job: alice.submitWith(t, w.programs+"/sealbatch", shell(t), data, append(flags, "--config", conf, "-w", "cn1")...), node: "cn1"}
	eventually(t, 90*time.Second, "the application waits", func() bool {
		out := run(t.Context(), b.node, "root", nil, "sh", "-c", `for p in $(pgrep -f "$2"); do
			grep -qs "/job_$1/" /proc/$p/cgroup && grep -qs "Tgid:.$p$" /proc/$p/status && echo $p; done`, "sh", b.job.id, "sleep 3456").out
		f := strings.Fields(out)
		if len(f) > 0 {
			b.app = f[len(f)-1]
		}
		return b.app != ""
	})
	// Exactly one: a child that it is about to start bears its name for a moment.
	eventually(t, 30*time.Second, "one supervisor", func() bool {
		b.supervisor = must(t, b.node, "root", "sh", "-c", `for p in $(pgrep -f "sealbatch node-run"); do
			grep -qs "/job_$1/" /proc/$p/cgroup && grep -qsz "^node-run$" /proc/$p/cmdline && echo $p; done; true`, "sh", b.job.id)
		return len(strings.Fields(b.supervisor)) == 1
	})
	return b
}

// end lets the job end, which must have come to no harm.
func (b busy) end(t *testing.T) {
	t.Helper()
	must(t, b.node, "root", "kill", b.app)
	if code := b.job.wait(); code != 0 {
		t.Errorf("the attacked job ended with %d", code)
	}
}

// look is what a user of the node sees of the job: files under its mounts, in
// its directories, its environment, its memory.
func (b busy) look(t *testing.T, who person) string {
	t.Helper()
	return run(t.Context(), b.node, string(who), nil, "bash", "-c", `
		for p in $1 $2; do
			cat /proc/$p/environ
			cat /proc/$p/root/sd-container/input/secret /proc/$p/cwd/../secret
			ls -l /proc/$p/fd && cat /proc/$p/fd/*
			nsenter -U -m --preserve-credentials -t $p cat /sd-container/input/secret
		done
		grep -l . /tmp/sealbatch.*/* && cat /tmp/sealbatch.*/space/*/*/secret
		ls "$3" && cat "$3"/* "$3"/nodes/*/*
		grep sealbatch /proc/net/unix
	`, "bash", b.supervisor, b.app, b.job.dir).out
}

// dump is what a process of the user's can read of the supervisor's memory.
func (b busy) dump(t *testing.T, who person) []byte {
	t.Helper()
	return []byte(run(t.Context(), b.node, string(who), nil, "bash", "-c", `
		while read -r range perms _; do
			case $perms in rw*) ;; *) continue ;; esac
			from=$((16#${range%-*})) to=$((16#${range#*-}))
			dd if=/proc/$1/mem bs=65536 iflag=skip_bytes,count_bytes skip=$from count=$((to - from)) 2>/dev/null
		done </proc/$1/maps
	`, "bash", b.supervisor).out)
}

// outputKey is the key of the job's outputs, which its supervisor holds as long as it runs.
func (b busy) outputKey(t *testing.T) []byte {
	t.Helper()
	keys, err := os.ReadFile(filepath.Join(onDisk(t, "login", b.job.dir), "nodes", b.node, "keys.age"))
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := volume.ReadKey(bytes.NewReader(keys), aliceIdentity(t)...)
	if err != nil {
		t.Fatal(err)
	}
	return key.Bytes()
}

// TestAttackSameNode looks at a job from its own node: as a member of the same
// project, who sees nothing, and as the same user, who sees the files, as the
// threat model says, but not the supervisor's memory.
func TestAttackSameNode(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "same-node", map[string]string{"secret": secretOfNode,
		"run.sh": "cd /sd-container/input && echo begun >/sd-container/output/begun && sleep 3456; exit 0\n"})
	b := newWorld(t, false).waits(t, data)
	t.Run("another user", func(t *testing.T) {
		if out := b.look(t, bob); out != "" {
			t.Errorf("bob sees:\n%q", out)
		}
		if mem := b.dump(t, bob); len(mem) > 0 {
			t.Errorf("bob reads %d bytes of the supervisor's memory", len(mem))
		}
	})
	t.Run("another user, control", func(t *testing.T) {
		// Being another user is what keeps bob out.
		if out := b.look(t, alice); !strings.Contains(out, secretOfNode) || !strings.Contains(out, "SLURM_JOB_ID="+b.job.id) {
			t.Errorf("not even alice sees anything: it is no proof that bob does not\n%q", out)
		}
	})
	memory := attack{without: []string{"undumpable"}, says: "0 bytes", play: func(t *testing.T, w *world) outcome {
		b := b
		if len(w.off) > 0 {
			b = w.waits(t, data)
			defer b.end(t)
		}
		mem := b.dump(t, alice)
		if bytes.Contains(mem, b.outputKey(t)) {
			return gained("the outputs' key, in %d bytes of memory", len(mem))
		}
		return keptOut("%d bytes were read", len(mem))
	}}
	t.Run("the supervisor's memory", memory.run)
	b.end(t)
}

// TestAttackCredentialRead has somebody read a credential that alice's job
// made for the verifier.
func TestAttackCredentialRead(t *testing.T) {
	t.Parallel()
	s := newWorld(t, false).stakeOf(t, openTo("alice"), nil)
	c := newClaimant(t, aliceOnCN1, s.digest, sharedJob(t, alice, "-w", "cn1"), "cn1")
	unmunge := func(credential string) result {
		return run(t.Context(), "cn2", "mallory", strings.NewReader(credential), "unmunge")
	}
	if r := unmunge(c.credential(t)); r.code != 18 || strings.Contains(r.out, "sealbatch-munge") { // EMUNGE_CRED_UNAUTHORIZED
		t.Errorf("mallory reads a credential made for the verifier: %s", r)
	}
	if r := unmunge(c.credential(t, "--ttl=60")); r.code != 0 || !strings.Contains(r.out, "sealbatch-munge") {
		t.Errorf("control: mallory cannot even read a credential that is for everybody: %s", r)
	}
}
