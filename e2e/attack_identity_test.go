package e2e

import (
	"context"
	"crypto/ed25519"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Attacks on evidence: who one is, where one is, and which job is one's own.

// The same user, with a shell on another node, names the job's node.
func TestAttackOtherNode(t *testing.T) {
	t.Parallel()
	attack{without: []string{"origin"}, says: "was made at 10.77.0.5, but node cn1 is 10.77.0.4", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		c := w.claimant(t, place{"cn2", "alice"}, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// The same user, on another node, names that.
func TestAttackNodeWithoutJob(t *testing.T) {
	t.Parallel()
	attack{without: []string{"job's nodes"}, says: "does not run on node cn2", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		c := w.claimant(t, place{"cn2", "alice"}, s, sharedJob(t, alice, "-w", "cn1"), "cn2")
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// Another user on the job's node, whom the policy would let in, claims the keys of alice's job.
func TestAttackOtherUser(t *testing.T) {
	t.Parallel()
	attack{without: []string{"job's owner", "manifest's user"}, says: "is not of the user who made the credential",
		play: func(t *testing.T, w *world) outcome {
			s := w.stakeOf(t, openTo("alice", "bob"), nil)
			c := w.claimant(t, place{"cn1", "bob"}, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
			return c.claims(t, s, c.credential(t))
		}}.run(t)
}

// bob may open the volumes in a partition where he has no job; alice has one.
func TestAttackJobOfOthers(t *testing.T) {
	t.Parallel()
	attack{without: []string{"job's owner"}, says: "is not of the user who made the credential", play: func(t *testing.T, w *world) outcome {
		p := openTo("bob")
		p.Partitions = []string{"small"}
		s := w.stakeOf(t, p, func(m *manifest.Manifest) { m.User = "bob" })
		c := w.claimant(t, place{"cn1", "bob"}, s, sharedJob(t, alice, "-w", "cn1", "-p", "small"), "cn1")
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// bob's job on cn2 says in its free texts that it runs on cn1, in another
// partition, which is where the policy wants it.
func TestAttackForgedJob(t *testing.T) {
	t.Parallel()
	const forged = "x\n   UserId=bob(2002) GroupId=bob(2002) MCS_label=N/A\n   JobState=RUNNING Reason=None\n" +
		"   Partition=small\n   NodeList=cn1\n   BatchHost=cn1"
	attack{without: []string{"fixed fields"}, says: "does not run on node cn1", play: func(t *testing.T, w *world) outcome {
		p := openTo("bob")
		p.Nodes, p.Partitions = []string{"cn1"}, []string{"small"}
		s := w.stakeOf(t, p, func(m *manifest.Manifest) { m.User = "bob" })
		job := sharedJob(t, bob, "-w", "cn2", "-J", forged, "--comment", forged)
		c := w.claimant(t, place{"cn1", "bob"}, s, job, "cn1")
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// mallory got hold of a credential that alice's job made, and claims for
// herself, from her own node and with her own keys.
func TestAttackStolenCredential(t *testing.T) {
	t.Parallel()
	attack{without: []string{"credential's claim"}, says: "the credential covers another claim", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
		credential := c.credential(t)
		c.at = place{"cn2", "mallory"}
		c.renewE(t)
		c.renewS(t)
		return c.claims(t, s, credential)
	}}.run(t)
}

// mallory got hold of a voucher: the same.
func TestAttackStolenVoucher(t *testing.T) {
	t.Parallel()
	attack{without: []string{"voucher's claim"}, says: "voucher covers another claim", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
		voucher := c.honestVoucher(t)
		c.at = place{"cn2", "mallory"}
		c.renewE(t)
		c.renewS(t)
		return c.opens(t, s, c.release(t, voucher))
	}}.run(t)
}

// mallory cannot open what is sealed to alice's job, but shows its voucher
// first, so that the job would come too late.
func TestAttackClaimInTheWay(t *testing.T) {
	t.Parallel()
	attack{without: []string{"possession of S"}, says: "the job gets its keys", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
		voucher := c.honestVoucher(t)
		thief := *c
		thief.at = place{"cn2", "mallory"}
		_, prover, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		thief.releaseWith(t, voucherEvidence(t, voucher), prover)
		return breaks(t, s, c, voucher)
	}}.run(t)
}

// mallory saw a claim go by and wants to use its nonce up.
func TestAttackNonceUsedUp(t *testing.T) {
	t.Parallel()
	attack{without: []string{"evidence before nonce"}, says: "the job gets its keys", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
		voucher := c.honestVoucher(t)
		thief := *c
		thief.at = place{"cn2", "mallory"}
		thief.renewS(t)
		thief.release(t, voucher)
		return breaks(t, s, c, voucher)
	}}.run(t)
}

// breaks is gained if the honest claimant gets no keys.
func breaks(t *testing.T, s stake, c *claimant, voucher string) outcome {
	t.Helper()
	if o := c.opens(t, s, c.release(t, voucher)); !o.gained {
		return gained("the job got no keys: %s", o.evidence)
	}
	return keptOut("the job gets its keys")
}

// Two munged do not know of each other's replays: the credential of a job that
// has its keys is shown once more, to a verifier on cn2, to use up the
// releases that the owner permits.
func TestAttackReplay(t *testing.T) {
	t.Parallel()
	second := secondVerifier(t)
	attack{without: []string{"nonce used once", "one release"}, says: "the nonce is used up", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), func(m *manifest.Manifest) { m.Nodes = 2 })
		c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-N", "2"), "cn1")
		credential := c.credential(t)
		voucher := c.vouch(t, credential).voucher(t)
		if o := c.opens(t, s, c.release(t, voucher)); !o.gained {
			t.Fatal(o.evidence)
		}
		c.vouch(t, credential).noEvidence(t, "MUNGE refuses the credential")
		c.at.host = "cn2"
		a := c.release(t, c.vouchAt(t, second, credential).voucher(t))
		if n := w.released(t, s); n != 1 {
			return gained("%d releases were counted", n)
		}
		return a.refusal(t)
	}}.run(t)
}

// A relay sends a job's release once more, byte for byte, which the job itself
// may do when an answer was lost: to use up the releases that the owner permits.
func TestAttackRepeatedRelease(t *testing.T) {
	t.Parallel()
	attack{without: []string{"repeats not counted"}, says: "1 release was counted", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), func(m *manifest.Manifest) { m.Nodes = 2 })
		c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-N", "2"), "cn1")
		voucher := c.honestVoucher(t)
		for _, at := range []place{aliceOnCN1, {"login", "slurm"}} {
			c.at = at
			if o := c.opens(t, s, c.release(t, voucher)); !o.gained { // with E, which only the job has
				t.Fatal(o.evidence)
			}
		}
		if n := w.released(t, s); n != 1 {
			return gained("%d releases were counted", n)
		}
		return keptOut("1 release was counted")
	}}.run(t)
}

// released is how often the first volume's key was released.
func (w *world) released(t *testing.T, s stake) int {
	t.Helper()
	var info keyapi.SecretInfo
	w.call(t, alice, http.MethodGet, "/v1/secrets/"+s.volumes[0].ID, nil).into(t, &info)
	return info.Released
}

// A job of alice's presents the manifest of another one.
func TestAttackBoundManifest(t *testing.T) {
	t.Parallel()
	attack{without: []string{"bound manifest"}, says: "the manifest belongs to job", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), func(m *manifest.Manifest) { m.Nodes = 2 })
		w.honest(t, s, sharedJob(t, alice, "-N", "2"), "cn1")
		c := w.claimant(t, place{"cn2", "alice"}, s, sharedJob(t, alice, "-w", "cn2"), "cn2")
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// A job claims on the same node again.
func TestAttackSecondClaim(t *testing.T) {
	t.Parallel()
	attack{without: []string{"one release"}, says: "a second claim is refused", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), func(m *manifest.Manifest) { m.Nodes = 2 })
		job := sharedJob(t, alice, "-N", "2")
		w.honest(t, s, job, "cn1")
		c := w.claimant(t, aliceOnCN1, s, job, "cn1")
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// A job claims on more nodes than its manifest has.
func TestAttackMoreNodes(t *testing.T) {
	t.Parallel()
	attack{without: []string{"number of nodes"}, says: "keys were given to all 1 nodes", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		job := sharedJob(t, alice, "-N", "2")
		w.honest(t, s, job, "cn1")
		c := w.claimant(t, place{"cn2", "alice"}, s, job, "cn2")
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// honest is the job itself, getting its keys.
func (w *world) honest(t *testing.T, s stake, job uint32, node string) {
	t.Helper()
	c := w.claimant(t, place{node, "alice"}, s, job, node)
	if o := c.claims(t, s, c.credential(t)); !o.gained {
		t.Fatalf("the job itself gets no keys: %s", o.evidence)
	}
}

// A credential made while the job ran is shown after its end.
func TestAttackAfterTheJob(t *testing.T) {
	t.Parallel()
	attack{without: []string{"job's state"}, says: "is CANCELLED, not running", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		job := running(t, alice, "-w", "cn1")
		c := w.claimant(t, aliceOnCN1, s, job, "cn1")
		credential := c.credential(t)
		must(t, "login", "alice", "scancel", strconv.FormatUint(uint64(job), 10))
		reach(t, job, "CANCELLED")
		return c.claims(t, s, credential)
	}}.run(t)
}

// A voucher is shown when it is a minute old.
func TestAttackLate(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"voucher's age", "nonce's age"}, says: "it is good for 1m0s",
		play: func(t *testing.T, w *world) outcome {
			s := w.stakeOf(t, openTo("alice"), nil)
			c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
			voucher := c.honestVoucher(t)
			w.forward(t, 61*time.Second)
			return c.opens(t, s, c.release(t, voucher))
		}}.run(t)
}

// mallory has alice's info files, registers a manifest of her own for the
// volumes, and claims for a job of her own.
func TestAttackStolenInfo(t *testing.T) {
	t.Parallel()
	attack{without: []string{"policy's users"}, says: "its policy names neither user mallory", play: func(t *testing.T, w *world) outcome {
		theirs := w.stakeOf(t, openTo("alice"), nil)
		s := w.register(t, mallory, nil, theirs.volumes...)
		c := w.claimant(t, place{"cn1", "mallory"}, s, sharedJob(t, mallory, "-w", "cn1"), "cn1")
		return c.claims(t, s, c.credential(t))
	}}.run(t)
}

// The key service has a second cluster, where mallory's Unix name is alice and
// the verifier says what she likes. alice's policy means the first.
func TestAttackOtherCluster(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"policy's clusters"}, says: "its policy does not name cluster elsewhere",
		play: func(t *testing.T, w *world) outcome {
			s := w.register(t, mallory, func(m *manifest.Manifest) { m.User = "alice" },
				w.stakeOf(t, openTo("alice"), nil).volumes...)
			c := w.claimant(t, place{"cn2", "mallory"}, s, 4711, "cn1")
			c.claim.Job.Cluster = "elsewhere"
			d := keyapi.ClaimDigest(c.service.ID, c.claim)
			voucher, err := manifest.SignJWS(manifest.TypeVoucher, elsewhere, keyapi.Voucher{Service: c.service.ID, Claim: d[:],
				UID: 2001, User: "alice", Node: "cn1", Job: manifest.Job{Cluster: "elsewhere", ID: 4711, ArrayTask: -1}, Issued: time.Now().UTC()})
			if err != nil {
				t.Fatal(err)
			}
			return c.opens(t, s, c.release(t, voucher))
		}}.run(t)
	attestDataset(t)
	if out := alice.mustSB(t, "policy", "show", "attest.sealed"); !regexp.MustCompile(`(?m)^clusters +testcluster$`).MatchString(out) {
		t.Errorf("data-prep leaves open whose users the policy means:\n%s", out)
	}
}

// mallory has alice's script and manifest, and submits them as they are.
func TestAttackStolenScript(t *testing.T) {
	t.Parallel()
	attack{without: []string{"manifest's user", "policy's users"},
		says: "the manifest is for a job of user alice, this one is of mallory", play: func(t *testing.T, w *world) outcome {
			s := w.stakeOf(t, openTo("alice"), nil)
			c := w.claimant(t, place{"cn1", "mallory"}, s, sharedJob(t, mallory, "-w", "cn1"), "cn1")
			return c.claims(t, s, c.credential(t))
		}}.run(t)
}

// mallory runs a munged of her own that calls its host cn1. Without the
// realm's key that is of no use; with it, see TestAttackRootElsewhere, which
// is this attack's control.
func TestAttackOwnMunged(t *testing.T) {
	t.Parallel()
	attack{says: "MUNGE refuses the credential", play: func(t *testing.T, w *world) outcome {
		return forgedByMunged(t, w, place{"cn2", "mallory"}, "head -c 128 /dev/urandom")
	}}.keptOut(t, "as it is")
}

// TestAttackRootElsewhere is the limit of tier B2, as the threat model has it:
// root on any host that has the MUNGE key can be anybody anywhere.
func TestAttackRootElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	o := forgedByMunged(t, w, place{"cn2", "root"}, "cat /etc/munge/munge.key", "--uid=alice", "--gid=alice")
	if !o.gained {
		t.Errorf("the documented limit of tier B2 is no limit: %s", o.evidence)
	}
	t.Run("where the owner demands more", func(t *testing.T) {
		s := w.stakeOf(t, func() manifest.Policy { p := openTo("alice"); p.Tier = manifest.TierB1; return p }(), nil)
		c := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
		c.release(t, c.honestVoucher(t)).denied(t, 403, keyapi.CodePolicy, "demands evidence of tier B1, this is B2")
	})
}

// forgedByMunged claims alice's keys, from cn2, by the word of a munged of
// one's own that calls itself cn1's.
func forgedByMunged(t *testing.T, w *world, at place, key string, options ...string) outcome {
	t.Helper()
	s := w.stakeOf(t, openTo("alice"), nil)
	c := w.claimant(t, at, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
	socket := ownMunged(t, at, key)
	return c.claims(t, s, c.credential(t, append(options, "--socket="+socket, "--restrict-uid=slurm", "--ttl=60")...))
}

// ownMunged starts a munged of one's own that calls its host cn1, with what
// the shell command key prints as its key, and returns its socket.
func ownMunged(t *testing.T, at place, key string) string {
	t.Helper()
	dir := must(t, at.host, at.user, "mktemp", "-d")
	r := run(t.Context(), at.host, at.user, nil, "sh", "-c",
		`chmod 755 "$1" && cd "$1" && (umask 077; `+key+` >key) && /usr/sbin/munged --force \
		--key-file="$1/key" --socket="$1/socket" --pid-file="$1/pid" --log-file="$1/log" --seed-file="$1/seed" --origin=10.77.0.4`, "sh", dir)
	if r.code != 0 {
		t.Fatalf("munged: %s", r)
	}
	t.Cleanup(func() {
		run(context.Background(), at.host, at.user, nil, "sh", "-c", `/usr/sbin/munged --stop --socket="$1/socket"; rm -r "$1"`, "sh", dir)
	})
	return dir + "/socket"
}

// secondVerifier starts login's verifier on cn2 as well, for a munged that has
// not seen the credentials shown on login.
func secondVerifier(t *testing.T) endpoint {
	t.Helper()
	const bin = "/tmp/second-verifier"
	program, err := os.ReadFile("../bin/sealbatch")
	if err != nil {
		t.Fatal(err)
	}
	write(t, "cn2", "slurm", bin, string(program))
	files := run(t.Context(), "login", "root", nil, "tar", "-C", "/etc", "-c", "sealbatch", "sealbatch-keys-ca.pem")
	if r := run(t.Context(), "cn2", "root", strings.NewReader(files.out), "tar", "-C", "/etc", "-x"); r.code != 0 {
		t.Fatal(r)
	}
	must(t, "cn2", "root", "chmod", "755", bin)
	pid := must(t, "cn2", "slurm", "sh", "-c",
		bin+" verifier --config /etc/sealbatch/verifier.conf </dev/null >/tmp/second-verifier.log 2>&1 & echo $!")
	t.Cleanup(func() {
		run(context.Background(), "cn2", "root", nil, "sh", "-c",
			"kill "+pid+"; rm -r /etc/sealbatch /etc/sealbatch-keys-ca.pem /tmp/second-verifier*")
	})
	eventually(t, 20*time.Second, "the second verifier is ready", func() bool {
		return run(t.Context(), "cn1", "root", nil, "bash", "-c", "exec 3<>/dev/tcp/cn2/8444").code == 0
	})
	return endpoint{"cn2:8444", "login"}
}
