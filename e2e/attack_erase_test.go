package e2e

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Attacks on keys that their owner ended.

// revoke has the owner revoke a volume.
func (w *world) revoke(t *testing.T, v keyservertest.Volume) {
	t.Helper()
	var info keyapi.SecretInfo
	if w.call(t, alice, http.MethodPost, "/v1/secrets/"+v.ID+"/revoke", struct{}{}).into(t, &info); !info.Revoked {
		t.Fatal("it is not revoked")
	}
}

// again runs a world's key service on the files in dir, which may have others'
// hands on them: script runs while it is down, with the directory as $2.
func (w *world) again(t *testing.T, dir, port, script string) {
	t.Helper()
	pid := must(t, "keys", "root", "sh", "-c", `set -e; [ -z "$6" ] || { kill "$6"; while kill -0 "$6" 2>/dev/null; do sleep 0.05; done; }
		`+script+`
		SEALBATCH_OFF="$4" SEALBATCH_AHEAD="$5" "$1/sealbatch" serve --config "$2/server.conf" </dev/null >>"$2/log" 2>&1 & echo $!`,
		"sh", w.programs, dir, port, strings.Join(w.off, ","), w.ahead, w.pids[w.keys.address])
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	w.keys = w.started(t, "keys", "root", pid, dir, n)
}

func (w *world) dir() (dir, port string) {
	_, port, _ = strings.Cut(w.keys.address, ":")
	return "/etc/world-" + port, port
}

// Somebody takes all that the key service has, its master key among it, after the
// owner ended a key, and runs a service of theirs on it that asks no questions.
func TestAttackErasedKey(t *testing.T) {
	t.Parallel()
	attack{without: []string{"slots wiped"}, own: true, says: "none of the keys",
		play: func(t *testing.T, w *world) outcome {
			s := w.stakeOf(t, openTo("alice"), nil)
			for _, v := range s.volumes {
				w.revoke(t, v)
			}
			from, _ := w.dir()
			port := strconv.Itoa(9100 + int(lastPort.Add(1)))
			thief := &world{off: []string{"revoked", "destroyed at start"}, verifier: w.verifier, programs: w.programs,
				ahead: w.ahead, pids: map[string]string{}}
			thief.again(t, "/etc/world-"+port, port,
				fmt.Sprintf(`cp -r %s "$2"; sed -i "s/^listen = .*/listen = 0.0.0.0:$3/" "$2/server.conf"`, from))
			o := thief.claimsAlice(t, s)
			if strings.Contains(o.evidence, "not in the store") {
				return keptOut("none of the keys is there: %s", o.evidence)
			}
			return o
		}}.run(t)
}

// Somebody who can write the data directory puts an older file of keys back, with
// what the owner ended since.
func TestAttackOlderKeys(t *testing.T) {
	t.Parallel()
	attack{without: []string{"revoked", "destroyed at start"}, own: true, says: "its key was revoked by its owner",
		play: func(t *testing.T, w *world) outcome {
			v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
			s := w.register(t, alice, nil, v)
			dir, port := w.dir()
			must(t, "keys", "root", "cp", dir+"/data/keys.slots", dir+"/older")
			w.revoke(t, v)
			w.again(t, dir, port, `cat "$2/older" >"$2/data/keys.slots"`)
			return w.claimsAlice(t, s)
		}}.run(t)
}

// Somebody without the owner's key deletes alice's volume.
func TestAttackDeletedByOthers(t *testing.T) {
	t.Parallel()
	attack{without: []string{"owner"}, says: "this account deposited no volume", play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		a := w.call(t, mallory, http.MethodDelete, "/v1/secrets/"+v.ID, struct{}{})
		s := w.register(t, alice, nil, w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice")))
		if a.status == http.StatusOK {
			return gained("alice's volume is gone")
		}
		if o := w.claimsAlice(t, s); !o.gained {
			return gained("the job got no keys: %s", o.evidence)
		}
		return a.refusal(t)
	}}.run(t)
}
