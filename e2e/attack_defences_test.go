package e2e

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// off makes a condition of the source hold for nothing when the program runs
// without the defence.
func off(name, file, condition string) weakness {
	return weakness{file, condition, fmt.Sprintf("!off(%q) && (%s)", name, condition)}
}

// either returns the source a value that depends on whether the defence is missing.
func either(name, usual, without string) string {
	return fmt.Sprintf("map[bool]string{false: %s, true: %s}[off(%q)]", usual, without, name)
}

// defences are those that control runs go without, one by one. They are all in
// one pair of programs, built for the tests, which read from SEALBATCH_OFF
// which of them to go without.
var defences = func() map[string][]weakness {
	all := map[string][]weakness{
		"evidence before nonce": {{"internal/keyserver/release.go",
			"\ta, ok := s.attestors[body.Evidence.Type]\n", `	if off("evidence before nonce") {
		_, err := s.commits.do(&audit.Event{Event: "nonce", Outcome: audit.OutcomeDone}, func(w store.Writer) error {
			if _, err := w.Get("nonces before", nonceKey(c.Nonce)); err == nil {
				return refuseNonce("the nonce is used up")
			}
			return w.Put("nonces before", nonceKey(c.Nonce), nil)
		})
		if err != nil {
			return attest.Claims{}, err
		}
	}
	a, ok := s.attestors[body.Evidence.Type]
`}},
		"nonces not remembered": {{"internal/keyserver/release.go", "\treturn s.nonces.issue(s.now()), nil\n", `	if off("nonces not remembered") {
		if err := s.replays.use("nonces", randomHex(16), s.now()); err != nil {
			return nil, err
		}
	}
	return s.nonces.issue(s.now()), nil
`}},
		"repeats not counted": {{"internal/keyserver/release.go", "\t\tcase again:\n",
			"\t\tcase again && err == nil && off(\"repeats not counted\"):\n\t\t\treturn g.record(w, s.now())\n\t\tcase again:\n"}},
		"one release": {{"internal/keyserver/release.go", "releaseKey(v.ID, c))\n\tif err == nil {",
			"releaseKey(v.ID, c))\n\tif err == nil && !off(\"one release\") {"}},
		"submitter's releases": {{"internal/keyserver/release.go", "volume, c.Submitter, jobName",
			"volume, " + either("submitter's releases", "c.Submitter", `""`) + ", jobName"}},
		"account's records": {{"internal/keyserver/quota.go", "n+more <= most", `(off("account's records") || n+more <= most)`}},
		"request's nonce": {{"internal/keyserver/replay.go", "_, ok := s.until[nonce]; ok",
			`_, ok := s.until[nonce]; ok && !off("request's nonce")`}},
		"address's rate": {{"internal/gate/addrlimiter.go", "return l.bucket(", "return off(\"address's rate\") || l.bucket("}},
		"container without network": {{"internal/container/runtime.go", "if network == \"\" {",
			"if network == \"\" || off(\"container without network\") {"}},
		"slots wiped": {{"internal/keyserver/slotstore/slotstore.go", "if len(s.spoilt) == 0 {",
			"if len(s.spoilt) == 0 || off(\"slots wiped\") {"}},
		"large bodies' signers": {{"internal/keyserver/large.go", "!rt.signed || size <= gate.SmallBody",
			`off("large bodies' signers") || !rt.signed || size <= gate.SmallBody`}},
		"account's large body": {{"internal/keyserver/large.go", "; busy {", `; busy && !off("account's large body") {`}},
		"signed path":          {signedParts},
		"signed service":       {signedParts},
		"namespace": {
			off("namespace", "internal/sshid/sshsig.go", `namespace == "" || s.Namespace != namespace`),
			{"internal/sshid/sshsig.go", "s.HashAlgorithm, namespace)", "s.HashAlgorithm, " + either("namespace", "namespace", "s.Namespace") + ")"},
		},
		"signature": {{"internal/sshid/sshsig.go", "\tif err != nil {\n\t\treturn nil, fmt.Errorf(\"%w: %s did not sign",
			"\tif err != nil && !off(\"signature\") {\n\t\treturn nil, fmt.Errorf(\"%w: %s did not sign"}},
		"least tier": {{"internal/config/server.go", `MinTier: "B2"`, "MinTier: " + either("least tier", `"B2"`, `"C"`)}},
		"owner": {{"internal/keyserver/secrets.go", "err == nil && rec.Owner != q.caller.account.ID",
			`err == nil && rec.Owner != q.caller.account.ID && !off("owner")`}},
		"depositor": {{"internal/keyserver/secrets.go", "old.Owner != rec.Owner || old.Digest",
			`old.Owner != rec.Owner && !off("depositor") || old.Digest`}},
		"account's names": {{"internal/keyserver/secrets.go", `[]byte(account + "\x00" + kind`,
			"[]byte(" + either("account's names", "account", `""`) + ` + "\x00" + kind`}},
		"enrolled now": {{"internal/keyserver/standing.go", "\tacc, err := s.accounts.lookup(a.Key, namespace, a.At)\n",
			"\tif off(\"enrolled now\") {\n\t\treturn \"\"\n\t}\n\tacc, err := s.accounts.lookup(a.Key, namespace, a.At)\n"}},
		"both versions": {{"internal/keyserver/accounts.go", "next.present, next.problem = f.keys, errors.Join(f.bad...)\n",
			"next.present, next.problem = f.keys, errors.Join(f.bad...)\n" +
				"\t\tif next.problem != nil && off(\"both versions\") {\n\t\t\tnext.present = next.good\n\t\t}\n"}},
		"trust": {{"jobprep/inputs.go", "p.d.Trust.Check(manifest.NamespaceInfo, b, sig, time.Now(), info.Created)\n\tif err != nil {",
			"p.d.Trust.Check(manifest.NamespaceInfo, b, sig, time.Now(), info.Created)\n\tif err != nil && !off(\"trust\") {"}},
		"host lists": {
			{"internal/keyserver/policy.go", "!anyNode && !hosts.Contains(c.Node)",
				`!anyNode && !(off("host lists") && expanded(p.Nodes, c.Node) || hosts.Contains(c.Node))`},
			{"internal/keyserver/policies.go", "\tif ok {\n\t\treturn said", "\tif ok && !off(\"host lists\") {\n\t\treturn said"},
			{file: "internal/keyserver/expanded.go", new: expandedSource},
		},
		"audited policies": {{"internal/keyserver/audit/audit.go", "\t\tentry, err := json.Marshal(e)\n",
			"\t\tif off(\"audited policies\") {\n\t\t\te.Policy, e.PolicyBefore, e.Policies = nil, nil, nil\n\t\t}\n" +
				"\t\tentry, err := json.Marshal(e)\n"}},
		"owner's log": {{"internal/keyserver/history.go", "out.Entries, last = append(out.Entries, e), k",
			"if off(\"owner's log\") {\n\t\t\treturn nil\n\t\t}\n\t\tout.Entries, last = append(out.Entries, e), k"}},
		"undumpable": {{"internal/harden/harden.go", "\tif err := unix.Prctl(unix.PR_SET_DUMPABLE",
			"\tif off(\"undumpable\") {\n\t\treturn nil\n\t}\n\tif err := unix.Prctl(unix.PR_SET_DUMPABLE"}},
		"fixed fields": {{"slurm/jobinfo.go", "(q Squeue) Job(ctx context.Context, jobID uint32) (JobInfo, error) {\n",
			"(q Squeue) Job(ctx context.Context, jobID uint32) (JobInfo, error) {\n\tif off(\"fixed fields\") {\n" +
				"\t\treturn scontrol(jobID)\n\t}\n"}},
	}
	maps.Copy(all, pathDefences)
	maps.Copy(all, scriptDefences)
	for _, c := range []struct{ name, file, condition string }{
		{"origin", "internal/verifier/vouch.go", "m.Host != want"},
		{"credential's claim", "internal/verifier/vouch.go", "!bytes.Equal(m.Payload, keyapi.MungePayload(q.Service, q.Claim))"},
		{"job's state", "internal/verifier/vouch.go", `j.State != "RUNNING"`},
		{"job's owner", "internal/verifier/vouch.go", "j.UID != uid"},
		{"job's nodes", "internal/verifier/vouch.go", "!j.Nodes.Contains(c.Node)"},
		{"voucher's claim", "internal/keyserver/voucher/voucher.go", "len(w.Claim) != len(digest) || [32]byte(w.Claim) != digest"},
		{"voucher's age", "internal/keyserver/voucher/voucher.go", "age > most || age < -voucherSkew"},
		{"possession of S", "internal/keyserver/release.go", "!ed25519.Verify(c.S, digest[:], body.Proof)"},
		{"manifest's user", "internal/keyserver/release.go", `c.Submitter == "" && c.User != m.User`},
		{"nonce used once", "internal/keyserver/nonces.go", "case err == nil:"},
		{"nonce's age", "internal/keyserver/nonces.go", "age > keyapi.NonceTTL || age < -nonceSkew"},
		{"nonce's MAC", "internal/keyserver/nonces.go", "!hmac.Equal(nonce[nonceHead:], n.mac(nonce[:nonceHead]))"},
		{"policy's size", "internal/manifest/policy.go", "len(b) > MaxPolicy"},
		{"bound manifest", "internal/keyserver/release.go", "m.Bound != nil && *m.Bound != job"},
		{"number of nodes", "internal/keyserver/manifests.go", "m.Served >= m.Nodes"},
		{"single use at release", "internal/keyserver/release.go", `claims.SingleUse != ""`},
		{"revoked", "internal/keyserver/policy.go", "case s.Revoked:"},
		{"destroyed at start", "internal/keyserver/erase.go", "yes && err == nil"},
		{"withdrawn", "internal/keyserver/standing.go", "a.Withdrawn != n.Jobs"},
		{"superseded", "internal/keyserver/policy.go", `s.SupersededBy != "" && !p.PinVersion`},
		{"policy's tier", "internal/keyserver/policy.go", "c.Tier < p.Tier"},
		{"policy's users", "internal/keyserver/policy.go", "!slices.Contains(p.Users, c.User) && !slices.ContainsFunc(p.Groups, v.inGroup)"},
		{"policy's clusters", "internal/keyserver/policy.go", "len(p.Clusters) > 0 && !slices.Contains(p.Clusters, c.Job.Cluster)"},
		{"files of others", "internal/trusted/finds.go", "len(w.finds) > 0"},
		{"policy's network", "internal/keyserver/policy.go", "p.Network == manifest.NetworkNone && m.Network != manifest.NetworkNone"},
		{"policy's evidence", "internal/keyserver/policy.go", `p.Evidence != "" && p.Evidence != c.Attestor`},
		{"policy's place", "internal/keyserver/policy.go",
			`len(p.Clusters) == 0 && (p.Evidence == "" || p.Evidence == keyapi.EvidenceSlurm)`},
		{"policy's binds", "internal/keyserver/policy.go", "m.HostBinds && !p.HostBinds"},
		{"key exists", "internal/keyserver/slotstore/slotstore.go", "subtle.ConstantTimeCompare(old, key) != 1"},
		{"token's claim", "internal/keyserver/token/token.go", "!t.Keys.Check(p.Proof, service, c)"},
		{"token used", "internal/keyserver/token/token.go", "case used:"},
		{"token's manifest", "internal/keyserver/token/token.go", "t.Manifest != c.Manifest"},
		{"number of connections", "internal/gate/conns.go", "share || len(c.open) >= c.most"},
		{"small bodies apart", "internal/gate/gate.go", "n <= g.limits.Small"},
		{"memory for bodies", "internal/gate/gate.go", "g.held+n > g.limits.Memory || g.heldBy[p]+n > g.limits.Memory/4"},
		{"account's requests", "internal/keyserver/replay.go", "len(s.order) >= c.perAccount"},
		{"records checked", "internal/keyserver/audit/records.go", "s.now != kept"},
		{"request's time", "internal/keyserver/auth.go", "d > keyapi.MaxSkew || d < -keyapi.MaxSkew"},
		{"request's time", "internal/keyserver/auth.go", "unix < s.started.Unix()"},
	} {
		w := off(c.name, c.file, c.condition)
		if cond, ok := strings.CutPrefix(c.condition, "case "); ok {
			w.new = fmt.Sprintf("case %s && !off(%q):", strings.TrimSuffix(cond, ":"), c.name)
		}
		all[c.name] = append(all[c.name], w)
	}
	return all
}()

var signedParts = weakness{"internal/keyserver/auth.go", "keyapi.SigningInput(s.id, r.Method, r.URL.RequestURI(),",
	"keyapi.SigningInput(" + either("signed service", "s.id", `""`) + ", r.Method, " + either("signed path", "r.URL.RequestURI()", `""`) + ","}

// allDefences are what weakened needs to build those programs.
func allDefences() []weakness {
	var out []weakness
	packages := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(defences)) {
		for _, w := range defences[name] {
			if !slices.Contains(out, w) {
				out = append(out, w)
				packages[path.Dir(w.file)] = true
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(packages)) {
		name := path.Base(p)
		if path.Dir(p) == "cmd" {
			name = "main"
		}
		out = append(out, weakness{file: p + "/off.go", new: fmt.Sprintf(offSource, name)})
	}
	return append(out,
		weakness{file: "slurm/scontrol.go", new: scontrolSource},
		weakness{file: "internal/transfer/removeall.go", new: removeAllSource},
		// A clock that can be put forward takes no defence away.
		weakness{"cmd/sealbatch/serve.go", "keyserver.Config{\n", "keyserver.Config{\n\t\tNow: ahead,\n"},
		weakness{file: "cmd/sealbatch/ahead.go", new: aheadSource},
		// Nor do bounds that few requests reach.
		weakness{"internal/keyserver/limits.go", "\treturn l\n",
			"\tl.Connections, l.PerSecond, l.Burst = fewConnections, 1, fewRequests\n\treturn l\n"},
		weakness{"internal/verifier/limits.go", "\treturn l\n",
			"\tl.Connections, l.PerSecond, l.Burst = fewConnections, 1, fewRequests\n\treturn l\n"},
		weakness{"internal/keyserver/limits.go", "service.Default(&l.Releases, 500_000)", "service.Default(&l.Releases, fewRequests/5)"},
		weakness{"internal/keyserver/server.go", "newReplayCache(requestsPerAccount)", "newReplayCache(fewRequests)"},
	)
}

const offSource = `package %s

import (
	"os"
	"slices"
	"strings"
)

const (
	fewConnections = 64
	fewRequests    = 100
)

func off(name string) bool { return slices.Contains(strings.Split(os.Getenv("SEALBATCH_OFF"), ","), name) }
`

const aheadSource = `package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

func ahead() time.Time {
	b, _ := os.ReadFile(os.Getenv("SEALBATCH_AHEAD"))
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return time.Now().Add(time.Duration(n) * time.Second)
}
`

// expandedSource writes down every name that a host list stands for.
const expandedSource = `package keyserver

import (
	"fmt"
	"slices"
	"strings"
)

func expanded(lists []string, node string) bool {
	return slices.ContainsFunc(lists, func(list string) bool {
		prefix, ranges, ok := strings.Cut(list, "[")
		names := []string{list}
		var low, high int
		if n, _ := fmt.Sscanf(ranges, "%d-%d]", &low, &high); ok && n == 2 {
			names = nil
			for i := low; i <= high; i++ {
				names = append(names, fmt.Sprintf("%s%05d", prefix, i))
			}
		}
		return slices.Contains(names, node)
	})
}
`

// scontrolSource asks for a job as one would at first.
const scontrolSource = `package slurm

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"

	"github.com/sealbatch/sealbatch/internal/hostlist"
)

func scontrol(id uint32) (JobInfo, error) {
	out, err := exec.Command("/usr/bin/scontrol", "show", "job", fmt.Sprint(id)).Output()
	if err != nil {
		return JobInfo{}, err
	}
	field := func(re string) string {
		m := regexp.MustCompile(re).FindSubmatch(out)
		if m == nil {
			return ""
		}
		return string(m[1])
	}
	nodes, _ := hostlist.Parse(1, field("\\sNodeList=(\\S+)"))
	uid, err := strconv.ParseUint(field("\\sUserId=[^ (]*\\((\\d+)\\)"), 10, 32)
	return JobInfo{JobID: id, ArrayTask: -1, UID: uint32(uid), State: field("\\sJobState=(\\S+)"),
		Nodes: nodes, Partition: field("\\sPartition=(\\S+)"), Account: field("\\sAccount=(\\S+)")}, err
}
`
