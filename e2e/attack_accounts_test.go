package e2e

import (
	"crypto/rand"
	"net/http"
	"path"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Attacks by those whom the key service's administrator has removed from the accounts.

// accounts edits the file of accounts of a key service of the attack's own.
func (w *world) accounts(t *testing.T, script string) {
	t.Helper()
	must(t, "keys", "root", "sed", "-i", script, path.Dir(w.ahead)+"/accounts")
}

// openedBy is a volume of alice's, whose policy names one person.
func (w *world) openedBy(t *testing.T, who person, tier manifest.Tier) keyservertest.Volume {
	t.Helper()
	p := openTo(string(who))
	p.Tier = tier
	return w.deposit(t, alice, rand.Text(), manifest.KindImage, p)
}

// waitingJob registers a job of mallory's that may open a volume of alice's, and
// returns what it will do once it starts.
func (w *world) waitingJob(t *testing.T) (starts func() outcome) {
	t.Helper()
	s := w.register(t, mallory, nil, w.openedBy(t, mallory, manifest.TierB2))
	return func() outcome {
		c := w.claimant(t, place{"cn1", "mallory"}, s, sharedJob(t, mallory, "-w", "cn1"), "cn1")
		return c.claims(t, s, c.credential(t))
	}
}

// waitingToken does the same with a token.
func (w *world) waitingToken(t *testing.T) (starts func() outcome) {
	t.Helper()
	s := w.register(t, mallory, atTierC, w.openedBy(t, mallory, manifest.TierC))
	k := w.tokenOf(t, mallory, s)
	return func() outcome { return k.claims(t, w, s) }
}

// mallory's account is removed while a job and a token of hers wait.
func TestAttackRemovedAccount(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"enrolled now"}, says: "is not enrolled any more", play: func(t *testing.T, w *world) outcome {
		job, token := w.waitingJob(t), w.waitingToken(t)
		w.accounts(t, "/^mallory /d")
		if o := job(); o.gained != w.without("enrolled now") {
			return o
		}
		return token()
	}}.run(t)
}

// mallory stole alice's key and set a policy that names mallory. alice's key is
// removed; mallory, who has an account of her own, comes for the volume.
func TestAttackPolicyByRemovedKey(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"enrolled now"},
		says: "its policy was set with an SSH key of its owner's that is not enrolled any more",
		play: func(t *testing.T, w *world) outcome {
			v := w.openedBy(t, alice, manifest.TierB2)
			w.call(t, alice, http.MethodPut, "/v1/secrets/"+v.ID+"/policy", openTo("mallory")).into(t, new(keyapi.SecretInfo))
			w.accounts(t, "/^alice /d")
			return w.claimsAs(t, mallory, v)
		}}.run(t)
}

// The administrator removes mallory and makes a typing error in the same breath.
func TestAttackTypingError(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"both versions"}, says: "belongs to no account", play: func(t *testing.T, w *world) outcome {
		v := w.openedBy(t, mallory, manifest.TierB2)
		w.accounts(t, "/^mallory /d; s/^bob ssh-ed25519/bob ssh-ed25591/")
		s := w.manifest(t, mallory, nil, v)
		if a := w.call(t, mallory, http.MethodPost, "/v1/manifests", s.registration(t, keyOf(t, mallory))); a.status != 200 {
			return a.refusal(t)
		}
		c := w.claimant(t, place{"cn1", "mallory"}, s, sharedJob(t, mallory, "-w", "cn1"), "cn1")
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// mallory stays enrolled, with a new key or after a talk; what she had registered by
// then was withdrawn.
func TestAttackWithdrawn(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"withdrawn"}, says: "was withdrawn by the key service's administrator",
		play: func(t *testing.T, w *world) outcome {
			job, token := w.waitingJob(t), w.waitingToken(t)
			must(t, "keys", "root", w.programs+"/sealbatch", "serve", "account", "withdraw", "--yes", "mallory",
				"--config", path.Dir(w.ahead)+"/server.conf")
			if o := job(); o.gained != w.without("withdrawn") {
				return o
			}
			return token()
		}}.run(t)
}
