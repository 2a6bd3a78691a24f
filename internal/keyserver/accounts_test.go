package keyserver_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// enrolment is a line of the accounts' file.
func enrolment(name string, k ssh.Signer, options ...string) string {
	words := append([]string{name}, options...)
	return strings.Join(append(words, string(ssh.MarshalAuthorizedKey(k.PublicKey()))), " ")
}

// writeAccounts replaces the accounts' file, as an editor that writes it in place.
func (s *site) writeAccounts(t *testing.T, lines ...string) {
	t.Helper()
	if err := os.WriteFile(s.Layout.AllowedSigners, []byte(strings.Join(lines, "")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// enrolled reports whether a key can list its secrets, retryable whether a refusal
// says that it may pass.
func (s *site) enrolled(t *testing.T, k ssh.Signer) (enrolled, retryable bool) {
	t.Helper()
	_, err := s.Client(t, k).GetSecret(t.Context(), keyservertest.RandomHex(16))
	if errors.Is(err, keyclient.ErrNotFound) {
		return true, false
	}
	if !errors.Is(err, keyclient.ErrUnauthorised) {
		t.Errorf("neither enrolled nor refused: %v", err)
	}
	api, _ := errors.AsType[*keyclient.APIError](err)
	return false, api != nil && api.Retryable
}

// ready asks /readyz without a signature.
func (s *site) ready(t *testing.T) keyapi.Health {
	t.Helper()
	res, err := s.rawClient(t).Get(s.URL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var h keyapi.Health
	if err := json.NewDecoder(res.Body).Decode(&h); err != nil || h.Ready != (res.StatusCode == http.StatusOK) {
		t.Fatalf("/readyz: status %d, %+v, %v", res.StatusCode, h, err)
	}
	return h
}

// TestReloadAccounts changes the file under a running service.
func TestReloadAccounts(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	second, carol := keyservertest.NewSigner(t), keyservertest.NewSigner(t)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	if ok, _ := s.enrolled(t, second); ok {
		t.Fatal("a key that is not enrolled counts")
	}
	// Found by looking at the file, without Reload, at once.
	s.writeAccounts(t, enrolment("alice", s.alice), enrolment("alice", second), enrolment("carol", carol))
	if l := keyservertest.Secrets(t, s.Client(t, second)); len(l) != 1 || l[0].VolumeID != v.ID {
		t.Errorf("a second key of alice's sees %v", l)
	}
	if ok, retryable := s.enrolled(t, s.bob); ok || !retryable {
		t.Errorf("bob was removed a moment ago: enrolled %t, retryable %t", ok, retryable)
	}
	// A change of the same size within a tick of the file system's clock.
	st, err := os.Stat(s.Layout.AllowedSigners)
	if err != nil {
		t.Fatal(err)
	}
	s.writeAccounts(t, enrolment("alice", s.alice), enrolment("alice", s.bob), enrolment("carol", carol))
	if err := os.Chtimes(s.Layout.AllowedSigners, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	now, err := os.Stat(s.Layout.AllowedSigners)
	if err != nil || now.Size() != st.Size() || now.ModTime() != st.ModTime() {
		t.Fatalf("the change shows in size or time: %v", err)
	}
	if ok, _ := s.enrolled(t, second); ok {
		t.Error("a removed key counts, since the file's size and time are as they were")
	}
}

// TestBrokenAccounts removes bob's key from the file, adds mallory's, and makes a
// typing error. Only who stands in the last good version and in the broken one
// counts; audit log and /readyz say so, until the file is mended.
func TestBrokenAccounts(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]func(k ssh.Signer) string{
		"garbage":        func(ssh.Signer) string { return "nonsense\n" },
		"wildcard":       func(k ssh.Signer) string { return enrolment("*", k) },
		"two names":      func(k ssh.Signer) string { return enrolment("dora,emil", k) },
		"key twice":      func(k ssh.Signer) string { return enrolment("dora", k) + enrolment("emil", k) },
		"cert-authority": func(k ssh.Signer) string { return enrolment("dora", k, "cert-authority") },
		"bad option":     func(k ssh.Signer) string { return enrolment("dora", k, `valid-befor="20300101"`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, keyservertest.Options{})
			other, mallory := keyservertest.NewSigner(t), keyservertest.NewSigner(t)
			good := []string{enrolment("alice", s.alice), enrolment("bob", s.bob), enrolment("bob", other)}
			s.writeAccounts(t, good...)
			check := func(when string, want map[ssh.Signer]bool, problems int) {
				t.Helper()
				for k, want := range want {
					if got, retryable := s.enrolled(t, k); got != want || !got && !retryable {
						t.Errorf("%s: key %s enrolled: %t, want %t", when, ssh.FingerprintSHA256(k.PublicKey()), got, want)
					}
				}
				if h := s.ready(t); len(h.Reasons) != problems {
					t.Errorf("%s: /readyz says %q", when, h.Reasons)
				}
			}
			check("at first", map[ssh.Signer]bool{s.alice: true, s.bob: true, other: true, mallory: false}, 0)
			s.writeAccounts(t, good[0], bad(mallory), good[2], enrolment("mallory", mallory))
			check("broken", map[ssh.Signer]bool{s.alice: true, s.bob: false, other: true, mallory: false}, 1)
			if reasons := strings.Join(s.ready(t).Reasons, "; "); !strings.HasPrefix(reasons, "accounts: ") ||
				strings.Contains(reasons, "SHA256") || strings.Contains(reasons, "line") {
				t.Errorf("/readyz tells strangers %q", reasons)
			}
			// In a second broken version it is still the last good one that counts.
			s.writeAccounts(t, good[1], bad(mallory))
			check("broken again", map[ssh.Signer]bool{s.alice: false, s.bob: true, other: false}, 1)
			// A key that moved to another name in it does not count under either.
			s.writeAccounts(t, bad(mallory), enrolment("alice", s.bob))
			check("moved", map[ssh.Signer]bool{s.bob: false}, 1)
			if err := os.Remove(s.Layout.AllowedSigners); err != nil {
				t.Fatal(err)
			}
			check("gone", map[ssh.Signer]bool{s.alice: false, s.bob: false, other: false}, 1)
			s.writeAccounts(t, good[0], enrolment("mallory", mallory))
			check("mended", map[ssh.Signer]bool{s.alice: true, s.bob: false, other: false, mallory: true}, 0)

			s.Stop(t)
			log, err := os.ReadFile(s.Layout.Audit)
			if err != nil || bytes.Count(log, []byte(`"event":"accounts.read","outcome":"refused"`)) != 4 ||
				!bytes.Contains(log, []byte("; removed bob "+ssh.FingerprintSHA256(s.bob.PublicKey()))) {
				t.Errorf("the audit log, %v:\n%s", err, log)
			}
			s.writeAccounts(t, good[0], bad(mallory))
			if err := s.TryRun(); err == nil {
				t.Error("it starts with a broken file")
			}
		})
	}
}
