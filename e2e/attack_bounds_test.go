package e2e

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// What one account may cost the key service.

// mallory deposits a volume whose policy names more people than a cluster has:
// each release of it would read them all.
func TestAttackLargePolicies(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"policy's size"}, says: "policy of ", play: func(t *testing.T, w *world) outcome {
		p := openTo("mallory")
		for i := range 500 {
			p.Users = append(p.Users, fmt.Sprintf("u%060d", i))
		}
		v := keyservertest.NewVolume(t, "large", manifest.KindDataset, p)
		a := w.call(t, mallory, http.MethodPut, "/v1/secrets/"+v.ID, v.Secret)
		if a.status != http.StatusOK {
			return w.unmoved(t, "%s", a.refusal(t).evidence)
		}
		return gained("the key service keeps a policy of %d bytes", len(a.body))
	}}.run(t)
}

// mallory, whom nobody has enrolled, asks for nonces from several addresses, as
// many as she may. A node elsewhere needs one.
func TestAttackNonceFlood(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"nonces not remembered"}, says: "nonces were given away", play: func(t *testing.T, w *world) outcome {
		sum := 0
		for _, from := range flooders(t, 3) {
			n, _ := requests(t, w.keys, from, 300, "/v1/nonces", func() plainRequest { return plainRequest{} })
			sum += n
		}
		if a := aliceOnCN1.send(t, w.keys, plainRequest{method: http.MethodPost, path: "/v1/nonces"}); a.status != http.StatusOK {
			return gained("after %d nonces a node gets none: %.200s", sum, a.body)
		}
		return w.unmoved(t, "%d nonces were given away", sum)
	}}.run(t)
}

// A node makes its nonce itself, and dates it as it likes, instead of asking.
func TestAttackMadeUpNonce(t *testing.T) {
	t.Parallel()
	attack{without: []string{"nonce's MAC"}, says: "not one that this key service made", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
		binary.BigEndian.PutUint32(c.claim.Nonce, uint32(time.Now().Add(30*time.Second).Unix()))
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// mallory says with token after token that her job was started anew, and has the
// keys of her own volumes released each time: every release is a record.
func TestAttackReleaseFlood(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"account's records"}, says: "as many as it may", play: func(t *testing.T, w *world) outcome {
		p := openTo("mallory")
		p.Tier = manifest.TierC
		var volumes []keyservertest.Volume
		for i := range 4 {
			kind := manifest.KindDataset
			if i == 0 {
				kind = manifest.KindImage
			}
			volumes = append(volumes, w.deposit(t, mallory, fmt.Sprint("own", i), kind, p))
		}
		s := w.register(t, mallory, atTierC, volumes...)
		for i := range 7 { // of 4 records each, where 20 are permitted
			c := w.claimant(t, place{"cn2", "mallory"}, s, 4711, "cn2")
			c.claim.Job.Restart = uint32(i)
			o := c.opens(t, s, c.releaseWith(t, w.tokenOf(t, mallory, s).evidence(t, c), c.s))
			if !o.gained {
				return w.unmoved(t, "%s", o.evidence)
			}
		}
		return gained("28 releases are on record")
	}}.run(t)
}
