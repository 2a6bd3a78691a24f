package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// rotated is an account of its own of the user alice, whose SSH key is exchanged. A key
// called old or new lies in dir, as does the configuration that has it.
type rotated struct{ dir string }

func (r rotated) conf(key string) string { return r.dir + "/" + key + ".conf" }

func (r rotated) key(t *testing.T, key string) {
	t.Helper()
	must(t, "laptop", "alice", "sh", "-c", `mkdir -p "$1" && ssh-keygen -q -t ed25519 -N "" -f "$1/$2" &&
		{ cat ~/.config/sealbatch/client.conf; printf '[identity]\nssh-key = %s\n' "$1/$2"; } >"$1/$2.conf"`, "sh", r.dir, key)
}

// accounts edits the file of accounts, as a whole.
func (r rotated) accounts(t *testing.T, script string, args ...string) {
	t.Helper()
	must(t, "keys", "root", append([]string{"sh", "-c", `cd /etc/sealbatch && cp accounts accounts.rotated && ` + script +
		` && mv accounts.rotated accounts`, "sh"}, args...)...)
}

func (r rotated) enrol(t *testing.T, key string) {
	t.Helper()
	r.accounts(t, `echo "rotated $1" >>accounts.rotated`, must(t, "laptop", "alice", "cat", r.dir+"/"+key+".pub"))
}

// TestKeyRotation exchanges the SSH key of somebody with a dataset, results and jobs that
// wait: nothing is lost on the way, and in the end nothing rests on the old key.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	r := rotated{"/home/alice/rotated"}
	r.key(t, "old")
	r.enrol(t, "old")
	data := alice.dataset(t, "rotated", map[string]string{"run.sh": "echo result >/sd-container/output/r\n"},
		"-u", "alice", "-c", "*", "--config", r.conf("old"))
	prepared := func(key string) string {
		return alice.mustSB(t, "job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", alice.scratch(),
			"-args", "/sd-container/input/run.sh", "--no-submit", "--config", r.conf(key))
	}
	first := alice.submit(t, shell(t), data, "--config", r.conf("old"))
	byOld := prepared("old")
	if code := first.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	// The new key beside the old one, which signs nothing more.
	r.key(t, "new")
	r.enrol(t, "new")
	retire := `sed -i "s/^rotated \(.*$1\)/rotated valid-before=\"$(date -u -d "+1 second" +%Y%m%d%H%M%SZ)\" \1/" accounts.rotated`
	r.accounts(t, retire, strings.ReplaceAll(strings.Fields(must(t, "laptop", "alice", "cat", r.dir+"/old.pub"))[1], "/", `\/`))
	eventually(t, 30*time.Second, "the old key is retired", func() bool {
		return alice.sb(t, "policy", "list", "--config", r.conf("old")).code == 6
	})

	// What was sealed to the old key opens with it, and, wrapped anew, to the new one alone.
	must(t, "laptop", "alice", "mv", r.dir+"/old", r.dir+"/kept")
	out := func(n int) string { return fmt.Sprintf("%s/out%d", r.dir, n) }
	if got := alice.sb(t, "results", first.id, "-o", out(1), "--config", r.conf("new")); !strings.Contains(got.err, "[results] identity") {
		t.Errorf("results without the old key: %s", got)
	}
	alice.mustSB(t, "results", first.id, "-o", out(2), "--config", r.conf("new"), "-i", r.dir+"/kept")
	alice.mustSB(t, "rewrap", "--job", first.id, "-i", r.dir+"/kept", "-r", r.dir+"/new.pub", "--config", r.conf("new"))
	alice.mustSB(t, "results", first.id, "-o", out(3), "--config", r.conf("new"))
	must(t, "laptop", "alice", "sh", "-c", `cmp "$1"/*/r "$2"/*/r`, "sh", out(2), out(3))

	// What the old key signed is one's own, and a job that it signed is served.
	byNew := prepared("new")
	if end := sbatch(t, byOld, "")(); end.code != 0 {
		t.Errorf("the job that the retired key signed: %s", end)
	}
	alice.mustSB(t, "policy", "renew", data, "--config", r.conf("new"))
	alice.mustSB(t, "policy", "renew", "--all", "--config", r.conf("new"))

	// The old key's line goes. A job of the new one opens the dataset all the same.
	r.accounts(t, `sed -i '/^rotated valid-before/d' accounts.rotated`)
	if list := alice.mustSB(t, "policy", "list", "--config", r.conf("new")); strings.Count(list, " open") != 1 {
		t.Errorf("without the old key:\n%s", list)
	}
	prepared("new") // the info file is signed by the new key
	if end := sbatch(t, byNew, "")(); end.code != 0 {
		t.Errorf("the job that the new key signed: %s", end)
	}
}
