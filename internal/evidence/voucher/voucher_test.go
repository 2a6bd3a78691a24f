package voucher

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/sitecmd/sitecmdtest"
)

func testClaim() keyapi.Claim {
	return keyapi.Claim{Manifest: manifest.Digest(bytes.Repeat([]byte{10}, 32)),
		Job: manifest.Job{Cluster: "box", ID: 7, ArrayTask: -1}, Node: "cn1",
		Nonce: make([]byte, keyapi.NonceSize), E: make([]byte, keyapi.PublicKeyE), S: make([]byte, 32)}
}

// fakeVerifier serves h over TLS and returns how to reach it.
func fakeVerifier(t *testing.T, h http.HandlerFunc) Parameters {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return Parameters{URL: s.URL, CA: string(ca), MungeUser: "sealbatch"}
}

// fakeMunge prints a credential that holds its standard input.
func fakeMunge(t *testing.T) munge.Commands {
	return munge.Commands{MungePath: sitecmdtest.Script(t, `[ "$1" = --restrict-uid=sealbatch ] && [ "$2" = --ttl=60 ] || exit 3
printf 'MUNGE:%s:\n' "$(base64 -w0)"`)}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func TestAttest(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	v := fakeVerifier(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			reply(w, http.StatusTooManyRequests, keyapi.Error{Code: keyapi.CodeTooMany, Message: "busy"})
			return
		}
		b, err := io.ReadAll(r.Body)
		var q keyapi.VouchRequest
		if err != nil || manifest.DecodeJSON(b, &q) != nil ||
			r.URL.Path != "/v1/vouch" || r.Method != http.MethodPost || r.TLS.Version != tls.VersionTLS13 {
			reply(w, http.StatusBadRequest, keyapi.Error{Code: keyapi.CodeBadRequest})
			return
		}
		reply(w, http.StatusOK, keyapi.VouchResponse{Voucher: q.Service + " " + q.Credential})
	})
	f, err := Attest("box", v, fakeMunge(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f(context.Background(), "keys", testClaim())
	var p keyapi.SlurmPayload
	if err != nil || got.Decode(keyapi.EvidenceSlurm, &p) != nil ||
		!strings.HasPrefix(p.Voucher, "keys MUNGE:") || calls.Load() != 2 {
		t.Errorf("after %d calls: %+v, %v", calls.Load(), got, err)
	}
}

func TestAttestErrors(t *testing.T) {
	t.Parallel()
	refuse := func(status int, e keyapi.Error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { reply(w, status, e) }
	}
	refused := fakeVerifier(t, refuse(http.StatusForbidden,
		keyapi.Error{Code: keyapi.CodeAttestation, Message: "not running", Hint: "wait"}))
	f, err := Attest("box", refused, fakeMunge(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f(context.Background(), "keys", testClaim())
	var e *keyclient.VerifierError
	if !errors.As(err, &e) || !errors.Is(err, keyclient.ErrVerifierRefused) || e.Status != 403 || e.Answer.Code != keyapi.CodeAttestation ||
		!strings.Contains(err.Error(), "not running") || !strings.Contains(err.Error(), "wait") {
		t.Errorf("refusal: %v", err)
	}
	if _, err := Attest("box", Parameters{URL: refused.URL}, munge.Commands{}); err == nil {
		t.Error("a verifier without a CA passed")
	}
	broken, err := Attest("box", refused, munge.Commands{MungePath: sitecmdtest.Script(t, "exit 1")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken(context.Background(), "keys", testClaim()); !errors.Is(err, sitecmd.ErrFailed) {
		t.Errorf("MUNGE fails: %v", err)
	}
}

// TestUnavailable tells a verifier that may vouch later from one that refuses.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	answering := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			reply(w, status, keyapi.Error{Code: code, Message: "no"})
		}
	}
	for name, c := range map[string]struct {
		h     http.HandlerFunc
		later bool
	}{
		"busy":        {answering(http.StatusTooManyRequests, keyapi.CodeTooMany), true},
		"no munged":   {answering(http.StatusServiceUnavailable, keyapi.CodeUnavailable), true},
		"no answer":   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, true},
		"not running": {answering(http.StatusForbidden, keyapi.CodeAttestation), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := fakeVerifier(t, c.h)
			attest, err := Attest("box", p, fakeMunge(t))
			if err != nil {
				t.Fatal(err)
			}
			_, err = attest(t.Context(), "keys", testClaim())
			u, later := errors.AsType[*evidence.UnavailableError](err)
			if later != c.later || later && u.Who != "the administrator of the verifier of cluster box at "+p.URL {
				t.Errorf("%v, %+v", err, u)
			}
		})
	}
}

func TestMaker(t *testing.T) {
	t.Parallel()
	p := fakeVerifier(t, func(http.ResponseWriter, *http.Request) {})
	good, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Type.Maker(good, evidence.Node{Cluster: "box"})
	if err != nil || m.Attest == nil || m.Relay.URL != p.URL || m.Relay.CA != p.CA {
		t.Errorf("%+v, %v", m, err)
	}
	for name, bad := range map[string]string{
		"nothing": "", "null": "null", "empty": "{}", "without TLS": strings.Replace(string(good), "https:", "http:", 1),
		"no authority": `{"url":"https://v","ca":"","munge_user":"x"}`, "field more": `{"more":1,` + string(good[1:]),
	} {
		if m, err := Type.Maker(json.RawMessage(bad), evidence.Node{}); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	a := keyapi.Cluster{Name: "a", VerifierURL: "https://a", VerifierCA: "CA", MungeUser: "slurm"}
	b := keyapi.Cluster{Name: "b", VerifierURL: "https://b"}
	for name, c := range map[string]struct {
		s    evidence.Submission
		want string
	}{
		"the only one": {evidence.Submission{Service: keyapi.Service{Clusters: []keyapi.Cluster{a}}}, "a"},
		"named":        {evidence.Submission{Service: keyapi.Service{Clusters: []keyapi.Cluster{a, b}}, Cluster: "b"}, "b"},
		"ambiguous":    {evidence.Submission{Service: keyapi.Service{Clusters: []keyapi.Cluster{a, b}}}, ""},
		"another":      {evidence.Submission{Service: keyapi.Service{Clusters: []keyapi.Cluster{a}}, Cluster: "b"}, ""},
		"none":         {evidence.Submission{}, ""},
		"no TLS":       {evidence.Submission{Service: keyapi.Service{Clusters: []keyapi.Cluster{{Name: "c", VerifierURL: "http://c"}}}}, ""},
	} {
		got, err := Type.Plan(c.s)
		p, _ := got.Parameters.(Parameters)
		if (err == nil) != (c.want != "") || err == nil && (got.Cluster != c.want || p.URL != "https://"+c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
