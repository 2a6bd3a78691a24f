package e2e

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// alice keeps the list of those whom she believes in a directory of her project's,
// as one who shares such a list would. bob, a member of that, puts one of his own in
// its place: her job-prep would believe his dataset, and her job run his program.
func TestAttackSignersReplaced(t *testing.T) {
	t.Parallel()
	data := bob.dataset(t, "unbelieved",
		map[string]string{"run.sh": "echo what bob wants >/sd-container/output/result\n"}, "-u", "alice", "-c", "*")
	const dir, conf = "/srv/modes", "/home/alice/shared-signers.conf"
	must(t, "laptop", "root", "sh", "-c", `install -d -g project_1 -m 2775 "$1" && install -o alice -m 644 /dev/null "$1/signers"`, "sh", dir)
	write(t, "laptop", "alice", conf,
		strings.Split(must(t, "laptop", "alice", "cat", ".config/sealbatch/client.conf"), "[trust]")[0]+
			"[trust]\nallowed-signers = "+dir+"/signers\n")
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(keyOf(t, bob).PublicKey())))
	must(t, "laptop", "bob", "sh", "-c", `mv "$1" "$1.was" && echo "$2" >"$1"`, "sh", dir+"/signers", "bob "+key)
	attack{without: []string{"files of others"}, says: dir + " (mode 0775) can be changed by its group",
		play: func(t *testing.T, w *world) outcome {
			r := run(t.Context(), "laptop", "alice", nil, "env", "SEALBATCH_OFF="+strings.Join(w.off, ","), w.programs+"/sealbatch",
				"job-prep", "--config", conf, "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", alice.scratch(),
				"-args", "/sd-container/input/run.sh", "--no-submit")
			if r.code != 0 {
				return keptOut("exit %d: %s", r.code, r.err)
			}
			return gained("a job of alice's that runs what bob wants: %s", r.out)
		}}.run(t)
}

// An operator let a group write the directory of the key service's configuration.
// bob puts accounts of his own in the place of the genuine ones, in which his key is
// alice's, and revokes what she deposited.
func TestAttackAccountsReplaced(t *testing.T) {
	t.Parallel()
	attack{without: []string{"files of others"}, own: true, says: "this SSH key belongs to no account",
		play: func(t *testing.T, w *world) outcome {
			dir, _ := w.dir()
			v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
			must(t, "keys", "root", "sh", "-c", `chgrp project_1 "$1" && chmod 2775 "$1"`, "sh", dir)
			must(t, "keys", "bob", "sh", "-c", `mv "$1" "$1.was" && echo "$2" >"$1"`, "sh", dir+"/accounts",
				fmt.Sprintf("alice %s", ssh.MarshalAuthorizedKey(keyOf(t, bob).PublicKey())))
			a := w.call(t, bob, http.MethodPost, "/v1/secrets/"+v.ID+"/revoke", struct{}{})
			if a.status == http.StatusOK {
				return gained("bob revoked alice's %s", v.ID)
			}
			return a.refusal(t)
		}}.run(t)
}

// A token is read by somebody else while it is fresh, at a key service whose operator
// chose no least tier, for a volume whose owner was content with tier C.
func TestAttackTokenByDefault(t *testing.T) {
	t.Parallel()
	attack{without: []string{"least tier"}, own: true, says: "releases nothing below tier B2",
		play: func(t *testing.T, w *world) outcome {
			dir, port := w.dir()
			w.again(t, dir, port, `sed -i '/^min-tier/d' "$2/server.conf"`)
			s := w.stakeOf(t, openAtTierC(), atTierC)
			return w.token(t, s).claims(t, w, s)
		}}.run(t)
}
