package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/hostlist"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// mallory's policies stand for millions of nodes in a few bytes. All decisions wait
// for that on her job.
func TestAttackHostLists(t *testing.T) {
	t.Parallel()
	attack{without: []string{"host lists"}, says: "the release took", play: func(t *testing.T, w *world) outcome {
		p := openTo("mallory")
		p.Nodes = nil
		for _, c := range []string{"a", "b", "c"} {
			p.Nodes = append(p.Nodes, strings.Repeat(c, 245)+"[00000-65535]")
		}
		p.Nodes = append(p.Nodes, "cn1")
		var volumes []keyservertest.Volume
		for i := range 20 {
			p.Releases = 100 + i // another policy each
			volumes = append(volumes, w.deposit(t, mallory, rand.Text(), manifest.KindImage, p))
		}
		s := w.register(t, mallory, nil, volumes...)
		c := w.claimant(t, place{"cn1", "mallory"}, s, sharedJob(t, mallory, "-w", "cn1"), "cn1")
		voucher := c.honestVoucher(t)
		start := time.Now()
		o := c.opens(t, s, c.release(t, voucher))
		if took := time.Since(start); took > 3*time.Second {
			return gained("the release took %s", took)
		}
		if !o.gained {
			t.Errorf("control: mallory may have these keys: %s", o.evidence)
		}
		return keptOut("the release took no time")
	}}.run(t)
}

// elsewhereClaims has mallory, whose name is alice on a cluster with a verifier of her
// own, claim volumes of alice's.
func (w *world) elsewhereClaims(t *testing.T, volumes ...keyservertest.Volume) outcome {
	t.Helper()
	s := w.register(t, mallory, func(m *manifest.Manifest) { m.User, m.Tier = "alice", manifest.TierC }, volumes...)
	c := w.claimant(t, place{"cn2", "mallory"}, s, 4711, "cn1")
	c.claim.Job.Cluster = "elsewhere"
	d := keyapi.ClaimDigest(c.service.ID, c.claim)
	voucher, err := manifest.SignJWS(manifest.TypeVoucher, elsewhere, keyapi.Voucher{Service: c.service.ID, Claim: d[:],
		UID: 2001, User: "alice", Node: "cn1", Job: manifest.Job{Cluster: "elsewhere", ID: 4711, ArrayTask: -1}, Issued: time.Now().UTC()})
	if err != nil {
		t.Fatal(err)
	}
	return c.opens(t, s, c.release(t, voucher))
}

// alice published at tier C when her key service knew no cluster. One is enrolled
// later, and mallory's name there is alice.
func TestAttackLaterCluster(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"policy's evidence"}, says: "its policy accepts no evidence but of type token",
		play: func(t *testing.T, w *world) outcome {
			p := openAtTierC()
			p.Clusters, p.Evidence = nil, keyapi.EvidenceToken
			return w.elsewhereClaims(t, w.deposit(t, alice, rand.Text(), manifest.KindImage, p))
		}}.run(t)
}

// alice's program leaves open whose users her policy names.
func TestAttackPolicyOfNoCluster(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"policy's place"}, says: "it names no cluster",
		play: func(t *testing.T, w *world) outcome {
			p := openAtTierC()
			p.Clusters = nil
			v := keyservertest.NewVolume(t, rand.Text(), manifest.KindImage, p)
			if a := w.call(t, alice, http.MethodPut, "/v1/secrets/"+v.ID, v.Secret); a.status != 200 {
				return a.refusal(t)
			}
			return w.elsewhereClaims(t, v)
		}}.run(t)
}

// Somebody who has alice's account key for a while opens a volume to mallory, who gets
// its key, and puts the policy back. alice, and whoever audits the key service, can
// tell which policy was in force then, who got the key by it, and whose hand set it.
func TestAttackPolicyPutBack(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"audited policies", "owner's log"}, says: "is in both logs",
		play: func(t *testing.T, w *world) outcome {
			v := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
			set := func(p manifest.Policy) {
				w.call(t, alice, http.MethodPut, "/v1/secrets/"+v.ID+"/policy", p).into(t, new(keyapi.SecretInfo))
			}
			set(openTo("mallory"))
			if o := w.claimsAs(t, mallory, v); !o.gained {
				t.Fatal(o.evidence)
			}
			set(openTo("alice"))
			inAudit, inOwners := w.audited(t, v.ID), w.ownersLog(t, v.ID)
			if !inAudit && !inOwners {
				return gained("nothing is left of the policy that let mallory in")
			}
			if inAudit && inOwners {
				return keptOut("what let mallory in is in both logs")
			}
			return keptOut("audit log: %t, owner's: %t", inAudit, inOwners)
		}}.run(t)
}

// audited reports whether the audit log tells by which policy mallory got a volume's key.
func (w *world) audited(t *testing.T, volume string) bool {
	t.Helper()
	log := must(t, "keys", "root", "grep", "-h", volume, path.Dir(w.ahead)+"/data/audit.log")
	naming := map[string]bool{} // digests of policies that name mallory
	for line := range strings.Lines(log) {
		var e struct{ Entry audit.Event }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if p := e.Entry.Policy; p != nil && bytes.Contains(p.Content, []byte(`"mallory"`)) {
			naming[p.Digest] = manifest.DigestOf(p.Content).String() == p.Digest
		}
		if e.Entry.Event == "release" && slices.ContainsFunc(e.Entry.Policies, func(d string) bool { return naming[d] }) {
			return e.Entry.User == "mallory"
		}
	}
	return false
}

// ownersLog reports the same of what alice reads.
func (w *world) ownersLog(t *testing.T, volume string) bool {
	t.Helper()
	var log keyapi.SecretLog
	w.call(t, alice, http.MethodGet, "/v1/secrets/"+volume+"/log", nil).into(t, &log)
	policy := ""
	for _, e := range log.Entries { // the owner's acts come first
		if e.Event == keyapi.LogPolicy && slices.Contains(e.Changes, "users: +mallory -alice") {
			policy = e.Policy
		}
		if e.Event == keyapi.LogReleased && e.User == "mallory" && e.Node == "cn1" && e.Attestor == keyapi.EvidenceSlurm {
			return e.Policy == policy && policy != ""
		}
	}
	return false
}

// TestHostListsAsSlurms holds host lists against the names that Slurm itself expands
// them to.
func TestHostListsAsSlurms(t *testing.T) {
	t.Parallel()
	lists := []string{"cn1", "cn[1-3,07],x2", "cn[01-10]", "cn[9-11]", "cn[008-12]", "a1[2-3]", "a[1-2]b[3,5]c", "r[1-2]n[1-3]",
		"x[0-1],x00", "cn[1-3],cn[2-5],cn2", "nid[001032,001044-001046]", "n[098-102]-ib", "c[1-2]s[0-1]n[08-09]", "a[5,3,1]", "a[0010-12]"}
	const ask = `for l; do echo "= $l"; scontrol show hostnames "$l"; done`
	out := must(t, "login", "alice", append([]string{"sh", "-c", ask, "sh"}, lists...)...)
	names := map[string][]string{}
	all, list := map[string]bool{}, ""
	for _, word := range strings.Split(strings.TrimSpace(out), "\n") {
		if l, ok := strings.CutPrefix(word, "= "); ok {
			list = l
			continue
		}
		names[list], all[word] = append(names[list], word), true
	}
	for n := range maps.Clone(all) { // and names beside them
		all[n+"1"], all[n+"0"], all[strings.Replace(n, "0", "", 1)], all["x"+n] = true, true, true, true
	}
	for _, list := range lists {
		l, err := hostlist.Parse(64, list)
		if err != nil || len(names[list]) == 0 {
			t.Errorf("%s: %v; Slurm has %d names", list, err, len(names[list]))
		}
		for n := range all {
			if got := l.Contains(n); got != slices.Contains(names[list], n) {
				t.Errorf("%s: Contains(%s) = %t, to Slurm it is %q", list, n, got, names[list])
			}
		}
	}
	for _, bad := range []string{"a[3-1]", "a[1-]", "a[x]", "a[1"} {
		r := run(t.Context(), "login", "alice", nil, "scontrol", "show", "hostnames", bad)
		if l, err := hostlist.Parse(64, bad); err == nil {
			t.Errorf("%s: %+v; Slurm says %s", bad, l, r)
		}
	}

}
