package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

var attestData struct {
	sync.Mutex
	info string
}

// attestDataset is a dataset of alice's that she alone may open, on any node, at tier B2.
func attestDataset(t *testing.T) string {
	t.Helper()
	attestData.Lock()
	defer attestData.Unlock()
	if attestData.info == "" {
		attestData.info = alice.dataset(t, "attest", simple)
	}
	return attestData.info
}

var digestRE = regexp.MustCompile(`--digest\W+(sha256:[0-9a-f]{64})`)

// registered has alice register a job's manifest without submitting the job,
// and returns the batch script and the manifest's digest.
func registered(t *testing.T, flags ...string) (script, digest string) {
	t.Helper()
	script = alice.mustSB(t, append([]string{"job-prep", "-ai", shell(t), "-di", attestDataset(t), "-t", "10", "--seal-time", "60",
		"--workdir", alice.scratch(), "-args", "/sd-container/input/run.sh", "--no-submit"}, flags...)...)
	m := digestRE.FindStringSubmatch(must(t, "login", "alice", "cat", script))
	if m == nil {
		t.Fatalf("%s names no manifest digest", script)
	}
	return script, m[1]
}

// idle submits a job that does nothing, of which no supervisor claims anything.
func idle(t *testing.T, who person, flags ...string) uint32 {
	t.Helper()
	argv := append([]string{"sbatch", "--parsable", "-t", "20", "-o", "/dev/null"}, flags...)
	out := must(t, "login", string(who), append(argv, "--wrap", "exec sleep 1200")...)
	id, err := strconv.ParseUint(out, 10, 32)
	if err != nil {
		t.Fatalf("sbatch printed %q", out)
	}
	t.Cleanup(func() { run(context.Background(), "login", "root", nil, "scancel", out) })
	return uint32(id)
}

// reach waits until Slurm calls the job's state so.
func reach(t *testing.T, job uint32, state string) uint32 {
	t.Helper()
	id := strconv.FormatUint(uint64(job), 10)
	eventually(t, 60*time.Second, "job "+id+" is "+state, func() bool {
		return strings.TrimSpace(run(t.Context(), "login", "root", nil, "squeue", "-h", "-t", "all", "-j", id, "-o", "%T").out) == state
	})
	return job
}

func running(t *testing.T, who person, flags ...string) uint32 {
	t.Helper()
	return reach(t, idle(t, who, flags...), "RUNNING")
}

// What a key service or a verifier says of evidence that does not hold.
func (a answer) noEvidence(t *testing.T, want string) {
	t.Helper()
	a.denied(t, 403, keyapi.CodeAttestation, want)
}

// TestAttestAlteredClaim shows honest credentials with claims that differ from
// what they cover.
func TestAttestAlteredClaim(t *testing.T) {
	t.Parallel()
	_, digest := registered(t)
	_, other := registered(t)
	job, second := running(t, alice, "-w", "cn1"), running(t, alice, "-w", "cn1")
	for _, c := range []struct {
		name  string
		alter func(*claimant)
	}{
		{"the node, from cn2", func(c *claimant) { c.at.host, c.claim.Node = "cn2", "cn2" }},
		{"the keys, by mallory on cn2", func(c *claimant) { c.at = place{"cn2", "mallory"}; c.renewE(t); c.renewS(t) }},
		{"E", func(c *claimant) { c.renewE(t) }},
		{"S", func(c *claimant) { c.renewS(t) }},
		{"the nonce", func(c *claimant) { c.claim.Nonce = c.at.nonce(t) }},
		{"the manifest", func(c *claimant) { c.claim.Manifest = parseDigest(t, other) }},
		{"the job", func(c *claimant) { c.claim.Job.ID = second }},
		{"the service", func(c *claimant) { c.service.ID += "0" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			altered := newClaimant(t, aliceOnCN1, digest, job, "cn1")
			cred := altered.credential(t)
			c.alter(altered)
			altered.vouch(t, cred).noEvidence(t, "the credential covers another claim")
		})
	}
	t.Run("the credential", func(t *testing.T) {
		c := newClaimant(t, aliceOnCN1, digest, job, "cn1")
		cred := c.credential(t)
		for i := len("MUNGE:"); i < len(cred)-4; i += 40 {
			b := []byte(cred)
			if b[i]++; b[i] > 'z' || b[i] == ':' || b[i] == '[' || b[i] == '0' {
				b[i] = 'M'
			}
			c.vouch(t, string(b)).noEvidence(t, "MUNGE refuses the credential")
		}
		c.vouch(t, cred[:len(cred)/8*4-2]+":").noEvidence(t, "MUNGE refuses the credential")
		c.vouch(t, cred).voucher(t) // as it was made, it is good
	})
	t.Run("nothing", func(t *testing.T) {
		c := newClaimant(t, aliceOnCN1, digest, job, "cn1")
		c.gets(t, c.release(t, c.honestVoucher(t)))
	})
	audited(t, digest, "released cn1")
	audited(t, other)
}

// TestAttestStolen gives mallory all that travels: claim, credential, voucher
// and the sealed answer. The claimant still gets the keys, and nobody else.
func TestAttestStolen(t *testing.T) {
	t.Parallel()
	_, digest := registered(t)
	c := newClaimant(t, aliceOnCN1, digest, running(t, alice, "-w", "cn1"), "cn1")
	c.via = loginVerifier // a relay sees all that passes
	thief := *c
	thief.at = place{"cn2", "mallory"}
	thief.renewE(t)
	thief.renewS(t)
	stolen := thief
	stolen.claim = c.claim

	// Who shows a credential does not matter: it vouches for what it covers.
	voucher := stolen.vouch(t, c.credential(t)).voucher(t)
	stolen.release(t, voucher).noEvidence(t, "not signed by its own key S")
	thief.release(t, voucher).noEvidence(t, "covers another claim") // nor is the nonce used up by that
	a := c.release(t, voucher)
	c.gets(t, a)
	var sealed keyapi.Released
	a.into(t, &sealed)
	if _, err := keyapi.OpenBundle(thief.e, c.service.ID, c.claim, sealed.Sealed); !errors.Is(err, keyapi.ErrBundle) {
		t.Errorf("the thief's key opens what was sealed to E: %v", err)
	}
	stolen.release(t, voucher).noEvidence(t, "not signed by its own key S")
	audited(t, digest, "refused cn1 not signed by its own key",
		"refused cn1 evidence does not hold: voucher covers another claim", "released cn1",
		"refused cn1 not signed by its own key")
}

// TestAttestVoucher shows honest vouchers with altered claims, and twice.
func TestAttestVoucher(t *testing.T) {
	t.Parallel()
	_, digest := registered(t)
	_, other := registered(t)
	job, second := running(t, alice, "-w", "cn1"), running(t, alice, "-w", "cn1")
	const another = "voucher covers another claim"
	const foreign = "the nonce is not one that this key service made"
	for _, c := range []struct {
		name, want string
		alter      func(*claimant)
	}{
		{"another nonce", another, func(c *claimant) { c.claim.Nonce = c.at.nonce(t) }},
		{"a nonce of one's own", foreign, func(c *claimant) { c.claim.Nonce = bytes.Repeat([]byte{7}, keyapi.NonceSize) }},
		{"another E", another, func(c *claimant) { c.renewE(t) }},
		{"another S", another, func(c *claimant) { c.renewS(t) }},
		{"another node", another, func(c *claimant) { c.claim.Node = "cn2" }},
		{"another job", another, func(c *claimant) { c.claim.Job.ID = second }},
		{"another manifest", another, func(c *claimant) { c.claim.Manifest = parseDigest(t, other) }},
		{"another cluster", "no verifier is enrolled", func(c *claimant) { c.claim.Job.Cluster = "elsewhere" }},
		{"proof by another key", "not signed by its own key S", func(c *claimant) { _, c.s, _ = ed25519.GenerateKey(nil) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			altered := newClaimant(t, aliceOnCN1, digest, job, "cn1")
			voucher := altered.honestVoucher(t)
			c.alter(altered)
			altered.release(t, voucher).noEvidence(t, c.want)
		})
	}
	for _, c := range []struct {
		name string
		ev   func(voucher string) keyapi.Evidence
		want string
	}{
		{"as a token", func(v string) keyapi.Evidence {
			return evidence(t, keyapi.EvidenceToken, keyapi.SlurmPayload{Voucher: v})
		}, "token"},
		{"with a token", func(v string) keyapi.Evidence {
			return evidence(t, keyapi.EvidenceSlurm, map[string]string{"proof": v, "voucher": v})
		}, "no voucher"},
		{"of no type", func(v string) keyapi.Evidence { return evidence(t, "", keyapi.SlurmPayload{Voucher: v}) }, "not accepted here"},
		{"none", func(string) keyapi.Evidence { return keyapi.Evidence{Type: keyapi.EvidenceSlurm} }, "no voucher"},
		{"with an altered payload", func(v string) keyapi.Evidence {
			f := strings.Split(v, ".")
			f[1] = strings.Replace(f[1], f[1][40:44], "AAAA", 1)
			return voucherEvidence(t, strings.Join(f, "."))
		}, "not signed by the expected key"},
		{"without its signature", func(v string) keyapi.Evidence {
			return voucherEvidence(t, v[:strings.LastIndexByte(v, '.')+1])
		}, "voucher"},
	} {
		t.Run(c.name, func(t *testing.T) {
			claimed := newClaimant(t, aliceOnCN1, digest, job, "cn1")
			claimed.releaseWith(t, c.ev(claimed.honestVoucher(t)), claimed.s).noEvidence(t, c.want)
		})
	}
	t.Run("signed by itself", func(t *testing.T) {
		c := newClaimant(t, aliceOnCN1, digest, job, "cn1")
		d := keyapi.ClaimDigest(c.service.ID, c.claim)
		forged, err := manifest.SignJWS(manifest.TypeVoucher, c.s, keyapi.Voucher{Service: c.service.ID, Claim: d[:],
			UID: 2001, User: "alice", Node: "cn1", Job: c.claim.Job, Issued: time.Now().UTC()})
		if err != nil {
			t.Fatal(err)
		}
		c.release(t, forged).noEvidence(t, "not signed by the expected key")
	})
}

// TestAttestBorrowed makes credentials elsewhere, as somebody else, or for
// something else; each covers its claim.
func TestAttestBorrowed(t *testing.T) {
	t.Parallel()
	_, digest := registered(t)
	job := running(t, alice, "-w", "cn1")
	t.Run("refused", func(t *testing.T) {
		for _, c := range []struct {
			name  string
			at    place
			want  string
			alter func(*keyapi.Claim)
			munge []string
		}{
			{name: "a node without the job", at: place{"cn2", "alice"}, want: "does not run on node cn2",
				alter: func(c *keyapi.Claim) { c.Node = "cn2" }},
			{name: "cn2 in cn1's name", at: place{"cn2", "alice"}, want: "was made at 10.77.0.5, but node cn1 is 10.77.0.4"},
			{name: "cn1 in cn2's name", at: aliceOnCN1, want: "was made at 10.77.0.4, but node cn2 is 10.77.0.5",
				alter: func(c *keyapi.Claim) { c.Node = "cn2" }},
			{name: "login in cn1's name", at: place{"login", "alice"}, want: "was made at 10.77.0.3, but node cn1"},
			{name: "login in its own name", at: place{"login", "alice"}, want: "node login is not in the verifier's table",
				alter: func(c *keyapi.Claim) { c.Node = "login" }},
			{name: "bob", at: place{"cn1", "bob"}, want: "is not of the user who made the credential"},
			{name: "mallory", at: place{"cn1", "mallory"}, want: "is not of the user who made the credential"},
			{name: "slurm itself", at: place{"cn1", "slurm"}, want: "is not of the user who made the credential"},
			{name: "root", at: place{"cn1", "root"}, want: "was made by root"},
			{name: "for everybody", at: aliceOnCN1, want: "is not restricted to the verifier's user", munge: []string{"--ttl=60"}},
			{name: "for bob", at: aliceOnCN1, want: "MUNGE refuses", munge: []string{"--restrict-uid=bob", "--ttl=60"}},
			{name: "for long", at: aliceOnCN1, want: "lives", munge: []string{"--restrict-uid=slurm", "--ttl=61"}},
			{name: "for as long as MUNGE likes", at: aliceOnCN1, want: "lives", munge: []string{"--restrict-uid=slurm"}},
			{name: "another restart", at: aliceOnCN1, want: "was restarted 0 times, not 1", alter: func(c *keyapi.Claim) { c.Job.Restart = 1 }},
			{name: "an array's task", at: aliceOnCN1, want: "is array task -1, not 0", alter: func(c *keyapi.Claim) { c.Job.ArrayTask = 0 }},
			{name: "another cluster", at: aliceOnCN1, want: "vouches for cluster testcluster",
				alter: func(c *keyapi.Claim) { c.Job.Cluster = "other" }},
			{name: "a job that never was", at: aliceOnCN1, want: "Slurm does not know job", alter: func(c *keyapi.Claim) { c.Job.ID = 60_000_000 }},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				borrowed := newClaimant(t, c.at, digest, job, "cn1")
				if c.alter != nil {
					c.alter(&borrowed.claim)
				}
				borrowed.vouch(t, borrowed.credential(t, c.munge...)).noEvidence(t, c.want)
			})
		}
		t.Run("an expired one", func(t *testing.T) {
			t.Parallel()
			c := newClaimant(t, aliceOnCN1, digest, job, "cn1")
			cred := c.credential(t, "--restrict-uid=slurm", "--ttl=1")
			end := time.Now().Add(3 * time.Second) // MUNGE counts whole seconds
			eventually(t, 10*time.Second, "the credential expires", func() bool { return time.Now().After(end) })
			c.vouch(t, cred).noEvidence(t, "MUNGE refuses the credential")
		})
	})
	c := newClaimant(t, aliceOnCN1, digest, job, "cn1")
	c.gets(t, c.release(t, c.honestVoucher(t)))
	audited(t, digest, "released cn1")
}

// TestAttestNotRunning claims for jobs before, during and after their time.
func TestAttestNotRunning(t *testing.T) {
	t.Parallel()
	_, digest := registered(t)
	job := idle(t, alice, "-w", "cn1", "-H")
	id := strconv.FormatUint(uint64(job), 10)
	claim := func() *claimant { return newClaimant(t, aliceOnCN1, digest, job, "cn1") }

	reach(t, job, "PENDING")
	c := claim()
	c.vouch(t, c.credential(t)).noEvidence(t, "is PENDING, not running")

	must(t, "login", "alice", "scontrol", "release", id)
	reach(t, job, "RUNNING")
	must(t, "login", "root", "scontrol", "suspend", id)
	c = claim()
	c.vouch(t, c.credential(t)).noEvidence(t, "is SUSPENDED, not running")
	must(t, "login", "root", "scontrol", "resume", id)
	reach(t, job, "RUNNING")
	claim().honestVoucher(t)

	late := claim()
	cred := late.credential(t) // made while the job ran
	must(t, "login", "alice", "scancel", id)
	reach(t, job, "CANCELLED")
	late.vouch(t, cred).noEvidence(t, "is CANCELLED, not running")
	late = claim()
	late.vouch(t, late.credential(t)).noEvidence(t, "is CANCELLED, not running")
	audited(t, digest)

	next := newClaimant(t, aliceOnCN1, digest, running(t, alice, "-w", "cn1"), "cn1")
	next.gets(t, next.release(t, next.honestVoucher(t)))
}

// TestAttestBound lets one job have the keys, once a node.
func TestAttestBound(t *testing.T) {
	t.Parallel()
	script, digest := registered(t, "-N", "2")
	job := running(t, alice, "-N", "2")
	claim := func(node string, job uint32) (*claimant, answer) {
		c := newClaimant(t, place{node, "alice"}, digest, job, node)
		return c, c.release(t, c.honestVoucher(t))
	}
	c, a := claim("cn1", job)
	c.gets(t, a)
	_, a = claim("cn1", job)
	a.denied(t, 409, keyapi.CodeConflict, "on node cn1 before; a second claim is refused")
	_, a = claim("cn2", running(t, alice, "-w", "cn2"))
	a.denied(t, 409, keyapi.CodeConflict, "the manifest belongs to job")
	// The same by the supervisors of the job that the script is for.
	r := run(t.Context(), "login", "alice", nil, "sbatch", "--parsable", "--wait", script)
	log := must(t, "login", "alice", "cat", path.Join(path.Dir(script), "job.log"))
	if r.code != exitKey || strings.Count(log, "the manifest belongs to job") != 2 || strings.Contains(log, "mounts") {
		t.Errorf("the manifest's own job, too late: %s\n%s", r, log)
	}
	c, a = claim("cn2", job)
	c.gets(t, a)
	_, a = claim("cn2", job)
	a.denied(t, 409, keyapi.CodeConflict, "keys were given to all 2 nodes")
	audited(t, digest, "released cn1", "refused cn1 second claim", "refused cn2 belongs to job",
		"refused cn", "refused cn", "released cn2", "refused cn2 given to all 2 nodes")
}

// TestAttestForgedJob has jobs whose free texts say other things of them: the
// account is the one that the verifier reads. (TestAttackForgedJob plays names
// and comments.)
func TestAttestForgedJob(t *testing.T) {
	t.Parallel()
	const forged = "x\n   UserId=bob(2002) GroupId=bob(2002) MCS_label=N/A\n   JobState=FAILED Reason=None\n   NodeList=cn2\n   BatchHost=cn2"
	_, digest := registered(t)
	job := running(t, bob, "-w", "cn2", "-A", "a\n"+strings.Repeat(" ", 250)+"2001")
	c := newClaimant(t, place{"cn2", "bob"}, digest, job, "cn2")
	c.vouch(t, c.credential(t)).denied(t, 503, keyapi.CodeUnavailable, "the verifier cannot ask Slurm")

	mine := newClaimant(t, aliceOnCN1, digest, running(t, alice, "-w", "cn1", "-J", forged, "--comment", forged), "cn1")
	mine.gets(t, mine.release(t, mine.honestVoucher(t)))
	audited(t, digest, "released cn1")
}

// TestAttestSupervisor runs the job's own supervisor, outside Slurm, with
// Slurm's variables made up.
func TestAttestSupervisor(t *testing.T) {
	t.Parallel()
	script, digest := registered(t)
	job := running(t, alice, "-w", "cn1")
	supervise := func(at place) result {
		return run(t.Context(), at.host, at.user, nil, "sh", "-c", `d=$(mktemp -d) && cp "$1/bin/sealbatch" "$1/bin/gocryptfs" "$d" &&
			SLURM_CLUSTER_NAME=testcluster SLURM_JOB_ID=$3 SLURMD_NODENAME=cn1 \
			"$d/sealbatch" node-run --job-dir "$1" --digest "$2" --self "$d"`,
			"sh", path.Dir(script), digest, strconv.FormatUint(uint64(job), 10))
	}
	r := supervise(place{"cn2", "alice"})
	if r.code != exitAttestation || !strings.Contains(r.err, "was made at 10.77.0.5, but node cn1 is 10.77.0.4") ||
		strings.Contains(r.err, "mounts") {
		t.Errorf("on another node: %s", r)
	}
	audited(t, digest)
	if r := supervise(aliceOnCN1); r.code != 0 {
		t.Errorf("on the job's node: %s", r)
	}
	audited(t, digest, "released cn1")
}
