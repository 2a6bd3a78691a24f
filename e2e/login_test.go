package e2e

import (
	"path"
	"strings"
	"testing"
)

// TestOnTheLoginNode: alice works on the login node with the laptop's configuration where HPCS has it, without SSH to
// that node, and with a key that only a forwarded agent holds. What her laptop published is hers there, and the
// results are her laptop's to open.
func TestOnTheLoginNode(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "from-laptop", map[string]string{"run.sh": "echo there >/sd-container/output/x\n"})
	conf, _, _ := strings.Cut(must(t, "laptop", "alice", "cat", "/home/alice/.config/sealbatch/client.conf"), "[trust]")
	work := alice.scratch() + "/on-login"
	write(t, "login", "alice", "/tmp/hpcs-client.conf", conf)
	write(t, "login", "alice", work+"/key", must(t, "laptop", "alice", "cat", "/home/alice/.ssh/id_ed25519")+"\n")
	r := run(t.Context(), "login", "alice", nil, "ssh-agent", "sh", "-c", `
		cd "$1" && cp /opt/sealbatch/bin/sealbatch /opt/sealbatch/bin/gocryptfs . && chmod go-w /tmp/hpcs-client.conf &&
		chmod 600 key && ssh-add -q key && rm key && ./sealbatch doctor && echo here >own.txt &&
		own=$(./sealbatch data-prep -i own.txt -o . -u alice -c '*' --data-path-at-rest "$1" --username alice) && ls "$own" &&
		./sealbatch job-prep -ai "$2" -di "$3" -t 10 --workdir "$1" -args /sd-container/input/run.sh -f`,
		"sh", work, shell(t), data)
	says(t, r, 0, "ok  configuration: /tmp/hpcs-client.conf", "ok  account key: in the SSH agent, a ssh-ed25519 key",
		"ok  site: this machine itself, without SSH", "COMPLETED")
	dir := strings.TrimSpace(must(t, "login", "alice", "sh", "-c", "ls -d "+work+"/sealbatch-*"))
	out := alice.mustSB(t, "results", dir, "-o", "/home/alice/"+path.Base(dir))
	if got := read(t, onDisk(t, "laptop", out), "x"); got != "there\n" {
		t.Errorf("results: %q", got)
	}
}
