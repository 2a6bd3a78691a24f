package e2e

import (
	"crypto/rand"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hiddeco/sshsig"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Attacks on what an owner decides: policies, versions, signed requests, tokens.

// claimsAlice is alice's honest claim for a stake, from her job on cn1.
func (w *world) claimsAlice(t *testing.T, s stake) outcome {
	t.Helper()
	c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
	return c.claims(t, s, c.credential(t))
}

// claimsAs is the claim of somebody whom a policy may name by now, for volumes
// of alice's and a job of their own.
func (w *world) claimsAs(t *testing.T, who person, volumes ...keyservertest.Volume) outcome {
	t.Helper()
	s := w.register(t, who, nil, volumes...)
	c := w.claimant(t, place{"cn1", string(who)}, s, sharedJob(t, who, "-w", "cn1"), "cn1")
	return c.claims(t, s, c.credential(t))
}

// The owner's older volume comes back with its own genuine info file, and a
// job is submitted for that.
func TestAttackOlderVolume(t *testing.T) {
	t.Parallel()
	attack{without: []string{"superseded"}, says: "it was superseded by volume", play: func(t *testing.T, w *world) outcome {
		name := rand.Text()
		older := w.deposit(t, alice, name, manifest.KindImage, openTo("alice"))
		w.deposit(t, alice, name, manifest.KindImage, openTo("alice"))
		return w.claimsAlice(t, w.register(t, alice, nil, older))
	}}.run(t)
}

// mallory deposits something under the name of alice's volume, so that alice's
// counts as superseded.
func TestAttackSameName(t *testing.T) {
	t.Parallel()
	attack{without: []string{"account's names"}, says: "the job gets its keys", play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		w.deposit(t, mallory, v.Secret.Name, manifest.KindImage, openTo("mallory"))
		if o := w.claimsAlice(t, w.register(t, alice, nil, v)); !o.gained {
			return gained("the job got no keys: %s", o.evidence)
		}
		return keptOut("the job gets its keys")
	}}.run(t)
}

// mallory deposits a volume with the id, digest and name that she read in
// alice's info file, with a key and a policy of her own.
func TestAttackOverwrittenSecret(t *testing.T) {
	t.Parallel()
	attack{without: []string{"depositor", "key exists"}, says: "was deposited before, by somebody else",
		play: func(t *testing.T, w *world) outcome {
			v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
			theirs := v.Secret
			theirs.Key, theirs.Policy = keyservertest.NewVolume(t, "x", manifest.KindImage, openTo("mallory")).Key, openTo("mallory")
			a := w.call(t, mallory, http.MethodPut, "/v1/secrets/"+v.ID, theirs)
			if o := w.claimsAs(t, mallory, v); o.gained {
				return o
			}
			if o := w.claimsAlice(t, w.register(t, alice, nil, v)); !o.gained {
				return gained("alice's job does not get its key any more: %s", o.evidence)
			}
			return a.refusal(t)
		}}.run(t)
}

// mallory gives alice's volume a policy that names her.
func TestAttackPolicyOfOthers(t *testing.T) {
	t.Parallel()
	attack{without: []string{"owner"}, says: "this account deposited no volume", play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		a := w.call(t, mallory, http.MethodPut, "/v1/secrets/"+v.ID+"/policy", openTo("mallory"))
		if o := w.claimsAs(t, mallory, v); o.gained {
			return o
		}
		return a.refusal(t)
	}}.run(t)
}

// mallory revokes alice's key.
func TestAttackRevokedByOthers(t *testing.T) {
	t.Parallel()
	attack{without: []string{"owner"}, says: "this account deposited no volume", play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		a := w.call(t, mallory, http.MethodPost, "/v1/secrets/"+v.ID+"/revoke", struct{}{})
		if o := w.claimsAlice(t, w.register(t, alice, nil, v)); !o.gained {
			return gained("the job got no keys: %s", o.evidence)
		}
		return a.refusal(t)
	}}.run(t)
}

// A submitter is content with less than the owner: with a token, tier C.
func TestAttackLessThanPolicy(t *testing.T) {
	t.Parallel()
	attack{without: []string{"policy's tier"}, says: "its policy demands evidence of tier B2, this is C",
		play: func(t *testing.T, w *world) outcome {
			s := w.stakeOf(t, openTo("alice"), atTierC)
			return w.token(t, s).claims(t, w, s)
		}}.run(t)
}

// A submitter binds paths of the node into the container, where the owner does
// not permit that. job-prep would refuse; this one's was patched.
func TestAttackHostBinds(t *testing.T) {
	t.Parallel()
	attack{without: []string{"policy's binds"}, says: "its policy does not permit runtime flags that may bind paths",
		play: func(t *testing.T, w *world) outcome {
			return w.claimsAlice(t, w.stakeOf(t, openTo("alice"), func(m *manifest.Manifest) {
				m.Private = keyservertest.Private(t, nil, []string{"--bind", "/scratch:/scratch"})
			}))
		}}.run(t)
}

func atTierC(m *manifest.Manifest) { m.Tier = manifest.TierC }

// openAtTierC is a policy that takes tokens.
func openAtTierC() manifest.Policy {
	p := openTo("alice", "bob")
	p.Tier = manifest.TierC
	return p
}

// oneTime is a token, with whoever has it.
type oneTime struct{ token string }

// token has alice obtain a token for a manifest of hers.
func (w *world) token(t *testing.T, s stake) oneTime {
	t.Helper()
	return w.tokenOf(t, alice, s)
}

func (w *world) tokenOf(t *testing.T, who person, s stake) oneTime {
	t.Helper()
	var k keyapi.Token
	w.call(t, who, http.MethodPost, "/v1/tokens", keyapi.TokenRequest{Manifest: parseDigest(t, s.digest)}).into(t, &k)
	return oneTime{k.Token}
}

// evidence proves possession of the token for a claim.
func (o oneTime) evidence(t *testing.T, c *claimant) keyapi.Evidence {
	t.Helper()
	ev, err := keyapi.TokenEvidence(o.token, c.service.ID, c.claim)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// claims shows the token for a stake, from wherever.
func (o oneTime) claims(t *testing.T, w *world, s stake) outcome {
	t.Helper()
	return o.claimsFor(t, w, s, 4711, "cn2")
}

func (o oneTime) claimsFor(t *testing.T, w *world, s stake, job uint32, node string) outcome {
	t.Helper()
	c := w.claimant(t, place{"cn2", "mallory"}, s, job, node)
	return c.opens(t, s, c.releaseWith(t, o.evidence(t, c), c.s))
}

// mallory finds a token that was used.
func TestAttackUsedToken(t *testing.T) {
	t.Parallel()
	attack{without: []string{"token used", "single use at release"}, says: "the token is used up", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openAtTierC(), func(m *manifest.Manifest) { m.Tier, m.Nodes = manifest.TierC, 2 })
		k := w.token(t, s)
		if o := k.claimsFor(t, w, s, 4711, "cn1"); !o.gained {
			t.Fatal(o.evidence)
		}
		return k.claimsFor(t, w, s, 4711, "cn2")
	}}.run(t)
}

// mallory has a fresh token for a harmless job of alice's, and wants the keys of another.
func TestAttackTokenOfOtherJob(t *testing.T) {
	t.Parallel()
	attack{without: []string{"token's manifest"}, says: "the token is for another manifest", play: func(t *testing.T, w *world) outcome {
		harmless := w.stakeOf(t, openAtTierC(), atTierC)
		return w.token(t, harmless).claims(t, w, w.stakeOf(t, openAtTierC(), atTierC))
	}}.run(t)
}

// A relay sees the proof of a token go by and shows it for keys of its own.
func TestAttackRelayedToken(t *testing.T) {
	t.Parallel()
	attack{without: []string{"token's claim"}, says: "the token's proof covers another claim", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openAtTierC(), atTierC)
		c := w.claimant(t, aliceOnCN1, s, 4711, "cn1")
		proof := w.token(t, s).evidence(t, c)
		c.at = place{"login", "slurm"}
		c.renewE(t)
		c.renewS(t)
		return c.opens(t, s, c.releaseWith(t, proof, c.s))
	}}.run(t)
}

// With a token, the number of a job is only its holder's word: bob says
// alice's, so that hers would count as served.
func TestAttackJobNumberTaken(t *testing.T) {
	t.Parallel()
	attack{without: []string{"submitter's releases"}, says: "the job gets its keys", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openAtTierC(), atTierC)
		bobs := w.register(t, bob, atTierC, s.volumes...)
		w.tokenOf(t, bob, bobs).claimsFor(t, w, bobs, 4711, "cn1")
		if o := w.token(t, s).claimsFor(t, w, s, 4711, "cn1"); !o.gained {
			return gained("the job got no keys: %s", o.evidence)
		}
		return keptOut("the job gets its keys")
	}}.run(t)
}

// TestAttackFreshToken is the limit of tier C: whoever reads a token while it
// is fresh can use it, from anywhere.
func TestAttackFreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	s := w.stakeOf(t, openAtTierC(), atTierC)
	if o := w.token(t, s).claims(t, w, s); !o.gained {
		t.Errorf("the documented limit of tier C is no limit: %s", o.evidence)
	}
}

// mallory writes requests and a manifest in alice's name: alice's public key,
// with signatures that she made herself.
func TestAttackForgedSignature(t *testing.T) {
	t.Parallel()
	attack{without: []string{"signature"}, says: "did not sign these bytes", play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		a := w.send(t, w.sign(t, alice, http.MethodPut, "/v1/secrets/"+v.ID+"/policy", openTo("mallory"), signing{forge: keyOf(t, mallory)}))
		if o := w.claimsAs(t, mallory, v); o.gained {
			return o
		}
		return a.refusal(t)
	}}.run(t)
}

// mallory has alice sign a text for another purpose (ssh-keygen -Y sign -n
// file), which reads as a request to the key service.
func TestAttackOtherPurpose(t *testing.T) {
	t.Parallel()
	attack{without: []string{"namespace"}, says: `made for "file", not for "sealbatch-request"`, play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		a := w.send(t, w.sign(t, alice, http.MethodPut, "/v1/secrets/"+v.ID+"/policy", openTo("mallory"), signing{namespace: "file"}))
		if o := w.claimsAs(t, mallory, v); o.gained {
			return o
		}
		return a.refusal(t)
	}}.run(t)
}

// Somebody who sees alice's requests sends an older one again: a policy that
// still named bob.
func TestAttackReplayedRequest(t *testing.T) {
	t.Parallel()
	attack{without: []string{"request's nonce"}, says: "this request was made before", play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		p := "/v1/secrets/" + v.ID + "/policy"
		captured := w.sign(t, alice, http.MethodPut, p, openTo("alice", "bob"), signing{})
		w.send(t, captured).into(t, new(keyapi.SecretInfo))
		w.call(t, alice, http.MethodPut, p, openTo("alice")).into(t, new(keyapi.SecretInfo))
		a := w.send(t, captured)
		if o := w.claimsAs(t, bob, v); o.gained {
			return o
		}
		return a.refusal(t)
	}}.run(t)
}

// The same with a request that was held back, and never arrived.
func TestAttackWithheldRequest(t *testing.T) {
	t.Parallel()
	attack{without: []string{"request's time"}, says: "the request was signed at", play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		a := w.send(t, w.sign(t, alice, http.MethodPut, "/v1/secrets/"+v.ID+"/policy", openTo("bob"),
			signing{at: time.Now().Add(-10 * time.Minute)}))
		if o := w.claimsAs(t, bob, v); o.gained {
			return o
		}
		return a.refusal(t)
	}}.run(t)
}

// A request about one volume is sent to the path of another.
func TestAttackRequestToOtherPath(t *testing.T) {
	t.Parallel()
	attack{without: []string{"signed path"}, says: "did not sign these bytes", play: func(t *testing.T, w *world) outcome {
		harmless := w.deposit(t, alice, rand.Text(), manifest.KindDataset, openTo("alice"))
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		captured := w.sign(t, alice, http.MethodPut, "/v1/secrets/"+harmless.ID+"/policy", openTo("bob"), signing{})
		captured.path = "/v1/secrets/" + v.ID + "/policy"
		a := w.send(t, captured)
		if o := w.claimsAs(t, bob, v); o.gained {
			return o
		}
		return a.refusal(t)
	}}.run(t)
}

// Another key service, to which alice also sends requests, passes one on.
func TestAttackRequestOfOtherService(t *testing.T) {
	t.Parallel()
	attack{without: []string{"signed service"}, says: "did not sign these bytes", play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
		a := w.send(t, w.sign(t, alice, http.MethodPut, "/v1/secrets/"+v.ID+"/policy", openTo("bob"),
			signing{service: "other#" + strconv.Itoa(4711)}))
		if o := w.claimsAs(t, bob, v); o.gained {
			return o
		}
		return a.refusal(t)
	}}.run(t)
}

// mallory registers a manifest of her own making in alice's name, and obtains
// a token for it: manifest and requests have alice's public key, and signatures
// by mallory.
func TestAttackForgedManifest(t *testing.T) {
	t.Parallel()
	attack{without: []string{"signature"}, says: "did not sign these bytes", play: func(t *testing.T, w *world) outcome {
		v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openAtTierC())
		s := w.manifest(t, alice, atTierC, v)
		forge := signing{forge: keyOf(t, mallory)}
		body := s.registration(t, keyOf(t, mallory))
		sig, err := sshsig.Unarmor([]byte(body.Signature))
		if err != nil {
			t.Fatal(err)
		}
		sig.PublicKey = keyOf(t, alice).PublicKey()
		body.Signature = string(sshsig.Armor(sig))
		// As mallory's request, and as alice's.
		if a := w.call(t, mallory, http.MethodPost, "/v1/manifests", body); a.status == 200 {
			return gained("mallory's account has a manifest that alice seems to have signed")
		}
		if a := w.send(t, w.sign(t, alice, http.MethodPost, "/v1/manifests", body, forge)); a.status != 200 {
			return a.refusal(t)
		}
		var k keyapi.Token
		w.send(t, w.sign(t, alice, http.MethodPost, "/v1/tokens", keyapi.TokenRequest{Manifest: parseDigest(t, s.digest)}, forge)).into(t, &k)
		return oneTime{k.Token}.claims(t, w, s)
	}}.run(t)
}

// bob, whose info files alice does not believe, publishes a dataset for her,
// with a program that would write her results.
func TestAttackStrangersInfo(t *testing.T) {
	t.Parallel()
	data := bob.dataset(t, "strangers",
		map[string]string{"run.sh": "echo what bob wants >/sd-container/output/result\n"}, "-u", "alice", "-c", "*")
	conf := "/home/alice/believes-nobody.conf"
	write(t, "laptop", "alice", conf, strings.Split(must(t, "laptop", "alice", "cat", ".config/sealbatch/client.conf"), "[trust]")[0])
	attack{without: []string{"trust"}, says: "signed by a key that is not trusted", play: func(t *testing.T, w *world) outcome {
		r := run(t.Context(), "laptop", "alice", nil, "env", "SEALBATCH_OFF="+strings.Join(w.off, ","), w.programs+"/sealbatch", "job-prep",
			"--config", conf, "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", alice.scratch(),
			"-args", "/sd-container/input/run.sh", "-f")
		id := strings.TrimSpace(r.out)
		if r.code != 0 || id == "" {
			return keptOut("exit %d: %s", r.code, r.err)
		}
		nodes, opened := (&job{t: t, who: alice, id: id}).results()
		for _, dir := range nodes {
			return gained("alice's results: %s", read(t, dir, "result"))
		}
		return keptOut("%s", opened)
	}}.run(t)
}
