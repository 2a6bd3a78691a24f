package keyserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/evidence/token"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// waiting is what waits to be released: bob's jobs with volumes of alice's, one for
// vouchers and one with a token. Requests were signed with first, manifests with signer.
type waiting struct {
	*site
	clock          *clock
	first, signer  ssh.Signer // bob's
	second         ssh.Signer // bob's, too
	other, owner   ssh.Signer // alice's: the owner's key, and another
	volume         keyservertest.Volume
	byVoucher, tok keyclient.ReleaseRequest
	raw            []byte // the manifest of byVoucher
}

func newWaiting(t *testing.T) *waiting {
	t.Helper()
	c := &clock{}
	w := &waiting{site: newSite(t, keyservertest.Options{Now: c.now}), clock: c, signer: keyservertest.NewSigner(t),
		second: keyservertest.NewSigner(t), other: keyservertest.NewSigner(t)}
	w.first, w.owner = w.bob, w.alice
	w.writeAccounts(t, w.lines()...)
	w.volume = w.Deposit(t, w.owner, "data", manifest.KindDataset, keyservertest.Policy("bob"))
	register := func() (keyclient.ReleaseRequest, []byte) {
		m, b := w.Manifest(t, func(m *manifest.Manifest) { m.User = "bob" }, w.volume)
		w.register(t, b, w.first)
		return keyclient.ReleaseRequest{Manifest: m, Digest: manifest.DigestOf(b), Job: w.job(7), Node: "cn1"}, b
	}
	w.byVoucher, w.raw = register()
	w.byVoucher.Attest = w.Attest("bob", 1001, nil, nil)
	w.tok, _ = register()
	w.tok.Job = w.job(8)
	k, err := w.Client(t, w.first).NewToken(t.Context(), w.tok.Digest, "")
	if err != nil {
		t.Fatal(err)
	}
	w.tok.Attest = token.Attest(k.Token)
	return w
}

// lines are the file of accounts at first.
func (w *waiting) lines(firstOptions ...string) []string {
	return []string{enrolment("alice", w.owner), enrolment("alice", w.other), enrolment("bob", w.first, firstOptions...),
		enrolment("bob", w.signer), enrolment("bob", w.second)}
}

func (w *waiting) register(t *testing.T, b []byte, signer ssh.Signer) {
	t.Helper()
	sig := keyservertest.Sign(t, w.signer, manifest.NamespaceManifest, b)
	if _, err := w.Client(t, signer).RegisterManifest(t.Context(), b, sig, keyservertest.PrivateOf(t, b)); err != nil {
		t.Fatal(err)
	}
}

// releases reports what is released: "" for the keys, else why not.
func (w *waiting) releases(t *testing.T, r keyclient.ReleaseRequest) string {
	t.Helper()
	_, err := w.Client(t, nil).Release(t.Context(), r)
	if err == nil {
		return ""
	}
	if !errors.Is(err, keyclient.ErrPolicy) {
		t.Errorf("refused for another reason: %v", err)
	}
	return err.Error()
}

// TestStanding changes the file of accounts while jobs and tokens wait: their keys
// and those of the volume's owner must be enrolled at the moment of release.
func TestStanding(t *testing.T) {
	t.Parallel()
	const soon = 10 * time.Minute // when the jobs start
	at := func(d time.Duration) string {
		return `valid-before="` + time.Now().Add(d).UTC().Format("20060102150405Z") + `"`
	}
	without := func(lines []string, i int) []string { return append(append([]string{}, lines[:i]...), lines[i+1:]...) }
	for name, tc := range map[string]struct {
		lines func(w *waiting) []string
		want  string // part of the refusal; "" for none
	}{
		"as it was":                      {func(w *waiting) []string { return w.lines() }, ""},
		"a key that signed nothing goes": {func(w *waiting) []string { return without(w.lines(), 4) }, ""},
		"the submitter is removed": {func(w *waiting) []string { return w.lines()[:2] },
			"manifest was registered, is not enrolled any more"},
		"the request's key is removed": {func(w *waiting) []string { return without(w.lines(), 2) },
			"manifest was registered, is not enrolled any more"},
		"the manifest's key is removed": {func(w *waiting) []string { return without(w.lines(), 3) },
			"manifest was signed, is not enrolled any more"},
		"the request's key is retired": {func(w *waiting) []string { return w.lines(at(soon / 2)) }, ""},
		"it was not valid then, as is known now": {func(w *waiting) []string { return w.lines(at(-time.Hour)) },
			"or not for that time"},
		"it may not sign requests any more": {func(w *waiting) []string { return w.lines(`namespaces="sealbatch-manifest"`) },
			"is not enrolled any more"},
		"it is somebody else's": {func(w *waiting) []string {
			return append(without(w.lines(), 2), enrolment("robert", w.first))
		}, "is enrolled for another account now"},
		"the account has another name": {func(w *waiting) []string {
			return []string{enrolment("alice", w.owner), enrolment("robert", w.first), enrolment("robert", w.signer)}
		}, "is enrolled for another account now"},
		"a typing error, and the submitter's line is gone": {func(w *waiting) []string { return append(w.lines()[:2], "bob\n") },
			"is not enrolled any more"},
		"the owner is removed": {func(w *waiting) []string { return w.lines()[2:] },
			"its policy was set with an SSH key of its owner's that is not enrolled any more"},
		"the owner's key is removed": {func(w *waiting) []string { return w.lines()[1:] },
			"its policy was set with an SSH key of its owner's that is not enrolled any more"},
		"the file is gone": {nil, "is not enrolled any more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWaiting(t)
			w.clock.add(soon)
			if tc.lines == nil {
				if err := os.Remove(w.Layout.AllowedSigners); err != nil {
					t.Fatal(err)
				}
			} else {
				w.writeAccounts(t, tc.lines(w)...)
			}
			for what, r := range map[string]keyclient.ReleaseRequest{"voucher": w.byVoucher, "token": w.tok} {
				if got := w.releases(t, r); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
					t.Errorf("%s: %q, want %q", what, got, tc.want)
				}
			}
			// What a line vouches for again is good again.
			w.writeAccounts(t, w.lines()...)
			if tc.want != "" {
				if got := w.releases(t, w.byVoucher) + w.releases(t, w.tok); got != "" {
					t.Errorf("when all is as it was: %s", got)
				}
			}
		})
	}
}

// TestStandingAgain has the rightful people put right what rested on a removed key:
// bob registers the same job again, and alice sets her policy again.
func TestStandingAgain(t *testing.T) {
	t.Parallel()
	w := newWaiting(t)
	w.writeAccounts(t, enrolment("alice", w.other), enrolment("bob", w.signer), enrolment("bob", w.second))
	if got := w.releases(t, w.byVoucher); !strings.Contains(got, "manifest was registered") {
		t.Errorf("at first: %q", got)
	}
	w.register(t, w.raw, w.second)
	if got := w.releases(t, w.byVoucher); !strings.Contains(got, "its policy was set with") {
		t.Errorf("bob has registered it again: %q", got)
	}
	void := func() bool {
		t.Helper()
		info, err := w.Client(t, w.other).GetSecret(t.Context(), w.volume.ID)
		if err != nil || info.Entry().PolicyVoid != info.PolicyVoid {
			t.Errorf("%+v, %v", info, err)
		}
		return info.PolicyVoid
	}
	if !void() {
		t.Error("alice is not told that her policy counts no more")
	}
	info, err := w.Client(t, w.other).SetPolicy(t.Context(), w.volume.ID, keyservertest.Policy("bob"))
	if err != nil || info.PolicyVoid || void() {
		t.Fatalf("%+v, %v", info, err)
	}
	if got := w.releases(t, w.byVoucher); got != "" {
		t.Errorf("alice has set the policy again: %q", got)
	}
	if _, err := w.Client(t, w.second).NewToken(t.Context(), w.tok.Digest, ""); !errors.Is(err, keyclient.ErrPolicy) {
		t.Errorf("a token for a manifest whose key is gone: %v", err)
	}
}

// TestRepeatOfRemoved repeats a release when its submitter or owner is gone.
func TestRepeatOfRemoved(t *testing.T) {
	t.Parallel()
	c := newClaimed(t, &clock{}, nil)
	if got := c.send(t) + c.send(t); got != "" {
		t.Fatal(got)
	}
	c.writeAccounts(t, enrolment("bob", c.bob))
	if got := c.send(t); got != keyapi.CodePolicy {
		t.Errorf("its account is removed: %q", got)
	}
}

// local asks on the administrator's socket.
func (w *waiting) local(t *testing.T, method, path string) (out keyserver.AccountInfo, status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://local"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := service.LocalClient(w.Layout.Data).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out, res.StatusCode
}

// TestWithdraw ends what an account has, while its keys stay enrolled.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	w := newWaiting(t)
	if st, err := os.Stat(w.Layout.Data + "/admin.sock"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st, err)
	}
	has := func(name string, volumes, jobs, tokens, withheld int) {
		t.Helper()
		info, status := w.local(t, http.MethodGet, "/accounts/"+name)
		n := 0
		for _, v := range info.Volumes {
			n += min(len(v.Withheld), 1)
		}
		for _, j := range info.Jobs {
			n += min(len(j.Withheld), 1)
		}
		for _, k := range info.Tokens {
			n += min(len(k.Withheld), 1)
		}
		if status != 200 || len(info.Volumes) != volumes || len(info.Jobs) != jobs || len(info.Tokens) != tokens || n != withheld {
			t.Errorf("%s: status %d, %+v", name, status, info)
		}
	}
	has("alice", 1, 0, 0, 0)
	has("bob", 0, 2, 1, 0)
	if _, status := w.local(t, http.MethodPost, "/accounts/nobody/withdraw"); status != 404 {
		t.Errorf("an account that never was: status %d", status)
	}
	w.local(t, http.MethodPost, "/accounts/bob/withdraw")
	has("bob", 0, 2, 1, 3)
	for what, r := range map[string]keyclient.ReleaseRequest{"job": w.byVoucher, "token": w.tok} {
		if got := w.releases(t, r); !strings.Contains(got, "was withdrawn by the key service's administrator") {
			t.Errorf("%s: %q", what, got)
		}
	}
	// bob's jobs are good again once he has registered them again, his old token is not.
	w.register(t, w.raw, w.first)
	has("bob", 0, 2, 1, 2)
	w.local(t, http.MethodPost, "/accounts/alice/withdraw?policies=yes")
	has("alice", 1, 0, 0, 1)
	if got := w.releases(t, w.byVoucher); !strings.Contains(got, "its policy was withdrawn by the key service's administrator") {
		t.Errorf("the owner's policies were withdrawn: %q", got)
	}
	if _, err := w.Client(t, w.owner).SetPolicy(t.Context(), w.volume.ID, keyservertest.Policy("bob")); err != nil {
		t.Fatal(err)
	}
	if got := w.releases(t, w.byVoucher); got != "" {
		t.Errorf("registered again, and the policy set again: %s", got)
	}
	w.Stop(t)
	if log, err := os.ReadFile(w.Layout.Audit); err != nil ||
		!strings.Contains(string(log), `"event":"account.withdraw","outcome":"done","reason":"2 jobs, 1 tokens"`) ||
		!strings.Contains(string(log), "the policies of 1 volumes") {
		t.Errorf("the audit log, %v", err)
	}
}

// TestDepositOfRemoved removes the owner between the request's check and its commit.
func TestDepositOfRemoved(t *testing.T) {
	t.Parallel()
	var s *site
	s = newSite(t, keyservertest.Options{Keys: func(k store.KeyStore) store.KeyStore {
		return removesOwner{k, func() { s.writeAccounts(t, enrolment("bob", s.bob)); _ = s.Server.Reload(t.Context()) }}
	}})
	v := keyservertest.NewVolume(t, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	if _, err := s.Client(t, s.alice).PutSecret(t.Context(), v.ID, v.Secret); !errors.Is(err, keyclient.ErrUnauthorised) {
		t.Errorf("deposited: %v", err)
	}
}

type removesOwner struct {
	store.KeyStore
	remove func()
}

func (r removesOwner) PutKey(ctx context.Context, volume string, key []byte) error {
	defer r.remove()
	return r.KeyStore.PutKey(ctx, volume, key)
}
