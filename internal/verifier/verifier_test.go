package verifier

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/munge/mungetest"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/slurm"
)

const (
	testService = "keys.example.org"
	nodeAddress = "10.77.0.4"
)

// site is a cluster with fake commands: the answers of unmunge and squeue are
// the values below, which a test may change before it asks.
type site struct {
	dir    string
	munged []string // "KEY: value" lines
	claim  keyapi.Claim
	job    map[string]string // squeue's fields
	exit   map[string]int    // status of unmunge and squeue
	stderr string            // of squeue
	user   User
	noUser error
	now    time.Time
	key    ed25519.PrivateKey
	log    bytes.Buffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{
		dir: t.TempDir(), key: key, exit: map[string]int{}, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		user: User{Name: "alice", Groups: []string{"alice", "project_1"}},
		munged: []string{"STATUS: 0", "ENCODE_HOST: " + nodeAddress, "ENCODE_TIME: 1795352912", "DECODE_TIME: 1795352912",
			"TTL: 60", "UID: 2001", "GID: 2001", fmt.Sprintf("UID_RESTRICTION: %d", os.Geteuid())},
		job: map[string]string{"JobID": "7", "ArrayTaskID": "N/A", "UserID": "2001", "State": "RUNNING", "RestartCnt": "0",
			"Partition": "standard", "Account": "project_1", "NodeList": "cn[1-2]"},
		claim: testClaim(),
	}
	return s
}

func testClaim() keyapi.Claim {
	return keyapi.Claim{Manifest: manifest.Digest(bytes.Repeat([]byte{10}, 32)),
		Job: manifest.Job{Cluster: "box", ID: 7, ArrayTask: -1}, Node: "cn1",
		Nonce: bytes.Repeat([]byte{1}, keyapi.NonceSize), E: bytes.Repeat([]byte{2}, keyapi.PublicKeyE), S: bytes.Repeat([]byte{3}, 32)}
}

// setMunged replaces a line of unmunge's answer; an empty value leaves it out.
func (s *site) setMunged(key, value string) {
	i := slices.IndexFunc(s.munged, func(l string) bool { return strings.HasPrefix(l, key+":") })
	if value == "" {
		s.munged = slices.Delete(s.munged, i, i+1)
		return
	}
	s.munged[i] = key + ": " + value
}

// command writes a script that prints answer and ends as s.exit says.
func (s *site) command(t *testing.T, name, answer, stderr string) string {
	t.Helper()
	p := filepath.Join(s.dir, name)
	if err := os.WriteFile(p+".answer", []byte(answer), 0o600); err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf("#!/bin/sh\ncat '%s.answer'\necho '%s' >&2\nexit %d\n", p, stderr, s.exit[name])
	// A process that another test forks meanwhile must not hold it open for writing.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(p, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// squeueAnswer renders the job as squeue -O does with the widths asked for.
func (s *site) squeueAnswer() string {
	var b strings.Builder
	for _, f := range []struct {
		name  string
		width int
	}{{"JobID", 20}, {"ArrayTaskID", 20}, {"UserID", 20}, {"State", 20}, {"RestartCnt", 20},
		{"Partition", 256}, {"Account", 256}, {"NodeList", 65000}} {
		fmt.Fprintf(&b, "%*s", f.width, s.job[f.name])
	}
	return b.String() + "\n"
}

func (s *site) config(t *testing.T, payload []byte) Config {
	t.Helper()
	answer := strings.Join(s.munged, "\n") + fmt.Sprintf("\nLENGTH: %d\n\n%s", len(payload), payload)
	return Config{
		Cluster: "box", Key: s.key,
		Nodes: map[string]netip.Addr{"cn1": netip.MustParseAddr(nodeAddress),
			"cn2": netip.MustParseAddr("10.77.0.5"), "cn3": netip.MustParseAddr("10.77.0.6")},
		Munge:      munge.Commands{UnmungePath: s.command(t, "unmunge", answer, "unmunge: Error")},
		Squeue:     slurm.Squeue{Path: s.command(t, "squeue", s.squeueAnswer(), s.stderr)},
		LookupUser: func(context.Context, uint32) (User, error) { return s.user, s.noUser },
		Now:        func() time.Time { return s.now },
		Log:        slog.New(slog.NewTextHandler(&s.log, nil)),
	}
}

// ask posts a request for a voucher on s.claim and returns the answer.
func (s *site) ask(t *testing.T, payload []byte) (int, keyapi.VouchResponse, keyapi.Error) {
	t.Helper()
	v, err := New(s.config(t, payload))
	if err != nil {
		t.Fatal(err)
	}
	return post(t, v.Handler(), keyapi.VouchRequest{Service: testService, Claim: s.claim, Credential: "MUNGE:AAAA:"})
}

func post(t *testing.T, h http.Handler, q any) (status int, ok keyapi.VouchResponse, refused keyapi.Error) {
	t.Helper()
	b, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/vouch", bytes.NewReader(b)))
	if w.Code == http.StatusOK {
		err = manifest.DecodeJSON(w.Body.Bytes(), &ok)
	} else {
		err = manifest.DecodeJSON(w.Body.Bytes(), &refused)
	}
	if err != nil {
		t.Fatalf("status %d: %v: %s", w.Code, err, w.Body)
	}
	return w.Code, ok, refused
}

func TestVouch(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.job["ArrayTaskID"], s.claim.Job.ArrayTask = "3", 3
	s.job["RestartCnt"], s.claim.Job.Restart = "2", 2
	status, ok, refused := s.ask(t, keyapi.MungePayload(testService, s.claim))
	if status != http.StatusOK {
		t.Fatalf("refused: %+v\n%s", refused, &s.log)
	}
	var got keyapi.Voucher
	if err := manifest.VerifyJWS(manifest.TypeVoucher, s.key.Public().(ed25519.PublicKey), ok.Voucher, &got); err != nil {
		t.Fatal(err)
	}
	digest := keyapi.ClaimDigest(testService, s.claim)
	want := keyapi.Voucher{Service: testService, Claim: digest[:], UID: 2001, User: "alice",
		Groups: []string{"alice", "project_1"}, Node: "cn1", Job: manifest.Job{Cluster: "box", ID: 7, ArrayTask: 3, Restart: 2},
		Account: "project_1", Partition: "standard", Issued: s.now}
	if a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); a != b {
		t.Errorf("got  %s\nwant %s", a, b)
	}
	for _, want := range []string{"vouched", "node=cn1", "job=7", "uid=2001", "user=alice"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log lacks %q: %s", want, &s.log)
		}
	}
}

// vouchCase is a request that is refused, or a verifier that cannot check it.
type vouchCase struct {
	spoil   func(*site)
	payload []byte // nil: the claim's own
	code    string
	says    string // where another check would refuse, too
}

func vouchCases() map[string]vouchCase {
	other := func(change func(*keyapi.Claim)) []byte {
		c := testClaim()
		change(&c)
		return keyapi.MungePayload(testService, c)
	}
	return map[string]vouchCase{
		"another cluster":       {spoil: func(s *site) { s.claim.Job.Cluster = "other" }, code: keyapi.CodeAttestation},
		"node not in the table": {spoil: func(s *site) { s.claim.Node = "cn9" }, code: keyapi.CodeAttestation, says: "table of nodes"},
		"short nonce":           {spoil: func(s *site) { s.claim.Nonce = s.claim.Nonce[1:] }, code: keyapi.CodeBadRequest},
		"replayed":              {spoil: func(s *site) { s.exit["unmunge"] = 17; s.setMunged("STATUS", "17") }, code: keyapi.CodeAttestation},
		"expired":               {spoil: func(s *site) { s.exit["unmunge"] = 15 }, code: keyapi.CodeAttestation},
		"munged is down":        {spoil: func(s *site) { s.exit["unmunge"] = 6 }, code: keyapi.CodeUnavailable},
		"status in text only":   {spoil: func(s *site) { s.setMunged("STATUS", "17") }, code: keyapi.CodeUnavailable},
		"ttl of 61 s":           {spoil: func(s *site) { s.setMunged("TTL", "61") }, code: keyapi.CodeAttestation},
		"no ttl":                {spoil: func(s *site) { s.setMunged("TTL", "0") }, code: keyapi.CodeAttestation},
		"unrestricted":          {spoil: func(s *site) { s.setMunged("UID_RESTRICTION", "") }, code: keyapi.CodeAttestation},
		"restricted to another": {spoil: func(s *site) { s.setMunged("UID_RESTRICTION", "12345") }, code: keyapi.CodeAttestation},
		"root":                  {spoil: func(s *site) { s.setMunged("UID", "0"); s.job["UserID"] = "0" }, code: keyapi.CodeAttestation},
		"loopback": {spoil: func(s *site) { s.setMunged("ENCODE_HOST", "127.0.1.1") },
			code: keyapi.CodeAttestation, says: "every host may"},
		"null address": {spoil: func(s *site) { s.setMunged("ENCODE_HOST", "0.0.0.0") },
			code: keyapi.CodeAttestation, says: "every host may"},
		"another node's address": {spoil: func(s *site) { s.setMunged("ENCODE_HOST", "10.77.0.5") }, code: keyapi.CodeAttestation},
		"address of no node":     {spoil: func(s *site) { s.setMunged("ENCODE_HOST", "10.99.0.1") }, code: keyapi.CodeAttestation},
		"payload: nonce":         {payload: other(func(c *keyapi.Claim) { c.Nonce[0]++ }), code: keyapi.CodeAttestation},
		"payload: E":             {payload: other(func(c *keyapi.Claim) { c.E[0]++ }), code: keyapi.CodeAttestation},
		"payload: S":             {payload: other(func(c *keyapi.Claim) { c.S[0]++ }), code: keyapi.CodeAttestation},
		"payload: job":           {payload: other(func(c *keyapi.Claim) { c.Job.ID++ }), code: keyapi.CodeAttestation},
		"payload: manifest":      {payload: other(func(c *keyapi.Claim) { c.Manifest = manifest.Digest{11} }), code: keyapi.CodeAttestation},
		"payload: service":       {payload: keyapi.MungePayload("other", testClaim()), code: keyapi.CodeAttestation},
		"payload: empty":         {payload: []byte{}, code: keyapi.CodeAttestation},
		"payload: and more":      {payload: append(keyapi.MungePayload(testService, testClaim()), '\n'), code: keyapi.CodeAttestation},
		"job unknown": {
			spoil: func(s *site) { s.exit["squeue"] = 1; s.stderr = "slurm_load_jobs error: Invalid job id specified" },
			code:  keyapi.CodeAttestation},
		"slurmctld is down": {
			spoil: func(s *site) { s.exit["squeue"] = 1; s.stderr = "Unable to contact slurm controller" },
			code:  keyapi.CodeUnavailable},
		"job of another id":        {spoil: func(s *site) { s.job["JobID"] = "8" }, code: keyapi.CodeAttestation},
		"pending":                  {spoil: func(s *site) { s.job["State"] = "PENDING" }, code: keyapi.CodeAttestation},
		"completing":               {spoil: func(s *site) { s.job["State"] = "COMPLETING" }, code: keyapi.CodeAttestation},
		"suspended":                {spoil: func(s *site) { s.job["State"] = "SUSPENDED" }, code: keyapi.CodeAttestation},
		"another user's job":       {spoil: func(s *site) { s.job["UserID"] = "2002" }, code: keyapi.CodeAttestation},
		"not on this node":         {spoil: func(s *site) { s.job["NodeList"] = "cn[2-3]" }, code: keyapi.CodeAttestation},
		"a node of a longer name":  {spoil: func(s *site) { s.job["NodeList"] = "cn[11-19]" }, code: keyapi.CodeAttestation},
		"on no node":               {spoil: func(s *site) { s.job["NodeList"] = "" }, code: keyapi.CodeAttestation},
		"array task, none claimed": {spoil: func(s *site) { s.job["ArrayTaskID"] = "0" }, code: keyapi.CodeAttestation},
		"another array task": {spoil: func(s *site) { s.job["ArrayTaskID"] = "4"; s.claim.Job.ArrayTask = 3 },
			code: keyapi.CodeAttestation},
		"restarted since":        {spoil: func(s *site) { s.job["RestartCnt"] = "1" }, code: keyapi.CodeAttestation},
		"newline in the account": {spoil: func(s *site) { s.job["Account"] = "a\nb" }, code: keyapi.CodeUnavailable},
		"unknown user":           {spoil: func(s *site) { s.noUser = errors.New("no such user") }, code: keyapi.CodeUnavailable},
	}
}

func TestVouchRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range vouchCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if c.spoil != nil {
				c.spoil(s)
			}
			payload := c.payload
			if payload == nil {
				payload = keyapi.MungePayload(testService, s.claim)
			}
			status, _, refused := s.ask(t, payload)
			if refused.Code != c.code || status != service.StatusOf(c.code) || refused.Message == "" || !strings.Contains(refused.Message, c.says) {
				t.Errorf("got status %d, %+v, want %s", status, refused, c.code)
			}
			if !strings.Contains(s.log.String(), "refused") {
				t.Errorf("not logged: %s", &s.log)
			}
		})
	}
}

// TestVouchWithMunge lets real munged daemons stand for two hosts of a
// cluster; only Slurm's answer is made up.
func TestVouchWithMunge(t *testing.T) {
	t.Parallel()
	realm := mungetest.NewRealm(t)
	cn1, cn2, login := realm.Host(t, nodeAddress), realm.Host(t, "10.77.0.5"), realm.Host(t, "10.77.0.3")
	loopback := realm.Host(t, "127.0.1.1")
	s := newSite(t)
	payload := keyapi.MungePayload(testService, s.claim)
	restrict := fmt.Sprintf("--restrict-uid=%d", os.Geteuid())
	cred, uid := mungetest.Credential(t, cn1, payload, restrict, "--ttl=60")
	s.job["UserID"] = fmt.Sprint(uid)
	c := s.config(t, nil)
	c.Munge = munge.Commands{Socket: login}
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	h := v.Handler()
	ask := func(credential string) (int, keyapi.Error) {
		status, _, refused := post(t, h, keyapi.VouchRequest{Service: testService, Claim: s.claim, Credential: credential})
		return status, refused
	}
	if status, refused := ask(cred); status != http.StatusOK {
		t.Fatalf("refused: %+v\n%s", refused, &s.log)
	}
	if status, refused := ask(cred); status != http.StatusForbidden || refused.Code != keyapi.CodeAttestation {
		t.Errorf("replayed: %d %+v", status, refused)
	}
	made := func(socket string, payload []byte, args ...string) string {
		cred, _ := mungetest.Credential(t, socket, payload, args...)
		return cred
	}
	for name, cred := range map[string]string{
		"made on another node":     made(cn2, payload, restrict, "--ttl=60"),
		"made on a nameless host":  made(loopback, payload, restrict, "--ttl=60"),
		"not restricted":           made(cn1, payload, "--ttl=60"),
		"restricted to another":    made(cn1, payload, "--restrict-uid=12345", "--ttl=60"),
		"default life of 5 min":    made(cn1, payload, restrict),
		"another claim":            made(cn1, append(payload, 'x'), restrict, "--ttl=60"),
		"another realm":            made(mungetest.NewRealm(t).Host(t, nodeAddress), payload, restrict, "--ttl=60"),
		"not a credential":         "hello",
		"a shell's favourite text": "MUNGE:$(id)`id`:",
	} {
		if status, refused := ask(cred); status != http.StatusForbidden || refused.Code != keyapi.CodeAttestation {
			t.Errorf("%s: %d %+v", name, status, refused)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Config){
		"no cluster":      func(c *Config) { c.Cluster = "" },
		"no key":          func(c *Config) { c.Key = nil },
		"no nodes":        func(c *Config) { c.Nodes = nil },
		"loopback node":   func(c *Config) { c.Nodes = map[string]netip.Addr{"cn1": netip.MustParseAddr("127.0.0.1")} },
		"invalid address": func(c *Config) { c.Nodes = map[string]netip.Addr{"cn1": {}} },
		"service, no CA":  func(c *Config) { c.ServiceURL = "https://keys" },
		"service, no TLS": func(c *Config) { c.ServiceURL = "http://keys" },
	} {
		c := newSite(t).config(t, nil)
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
