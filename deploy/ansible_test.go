package deploy

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a shell that sees a machine of its own: what it changes in these directories is gone with it.
const machine = `unshare -m sh -ec '
	mount -t tmpfs -o mode=755 tmpfs over
	for d in /etc /var/lib /usr/local/bin; do
		mkdir -p over$d.upper over$d.work; chmod 755 over$d.upper
		mount -t overlay -o lowerdir=$d,upperdir=$PWD/over$d.upper,workdir=$PWD/over$d.work overlay $d
	done
	. ./played'`

// TestAnsible plays site.yml, which sets a key service and a verifier up and has the one believe the other. Another
// program than that which was meant is not installed.
func TestAnsible(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := os.ReadFile(sealbatch(t))
	no(t, err, os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "over"), 0o755))
	book, err := filepath.Abs("ansible/site.yml")
	no(t, err)
	inventory := fmt.Sprintf(`all:
  vars: {ansible_connection: local, ansible_become: false, ansible_python_interpreter: /usr/bin/python3,
    sealbatch_start: false, sealbatch_program: %s, sealbatch_program_sha256: %x, sealbatch_exchange: %s/exchange}
  children:
    sealbatch_keys: {hosts: {one: {sealbatch_hosts: [keys.example.org, 192.0.2.1], sealbatch_clusters: [puhti],
      sealbatch_user: sealbatch-keys, sealbatch_server_conf: "[limits]\nburst = 5000"}}}
    sealbatch_verifiers: {hosts: {one: {sealbatch_cluster: puhti, sealbatch_verifier_hosts: [verifier.example.org],
      sealbatch_munge_user: munge, sealbatch_service_url: "https://keys.example.org:8443",
      sealbatch_nodes: "c1 192.0.2.2\n"}}}
`, sealbatch(t), sha256.Sum256(b), dir)
	played := fmt.Sprintf(`
		export ANSIBLE_HOME=$PWD/ansible ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_NOCOLOR=1 ANSIBLE_PIPELINING=1
		play() { ansible-playbook -i inventory.yml %s "$@"; }
		if play -e sealbatch_program_sha256=%064d; then exit 1; fi
		[ ! -e /usr/local/bin/sealbatch ] || [ "$(stat -c %%d /usr/local/bin/sealbatch)" != "$(stat -c %%d over)" ]
		play
		runuser -u sealbatch-keys -- sealbatch serve --config /etc/sealbatch/server.conf --check
		cat /etc/sealbatch/server.conf /etc/systemd/system/sealbatch-*.service.d/user.conf
	`, book, 0)
	no(t, os.WriteFile(filepath.Join(dir, "inventory.yml"), []byte(inventory), 0o600),
		os.WriteFile(filepath.Join(dir, "played"), []byte(played), 0o600))
	said := script(t, dir, machine)
	for _, want := range []string{"is not the program with the SHA-256", "ok  evidence: 1 cluster", "burst = 5000",
		"verifier-ca = verifier-puhti.crt", "User=sealbatch-keys", "User=munge", "Take /etc/sealbatch-offline off"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
}
