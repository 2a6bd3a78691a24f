package keyclient

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/sitecmd/sitecmdtest"
)

func testClaim() keyapi.Claim {
	return keyapi.Claim{Manifest: manifest.Digest(bytes.Repeat([]byte{10}, 32)), Job: manifest.Job{Cluster: "box", ID: 7, ArrayTask: -1}, Node: "cn1",
		Nonce: make([]byte, keyapi.NonceSize), E: make([]byte, keyapi.PublicKeyE), S: make([]byte, 32)}
}

// fakeVerifier serves h over TLS and returns how to reach it.
func fakeVerifier(t *testing.T, h http.HandlerFunc) manifest.Verifier {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return manifest.Verifier{Cluster: "box", URL: s.URL, CA: string(ca), MungeUser: "sealbatch"}
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

func TestSlurmEvidence(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	v := fakeVerifier(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			reply(w, http.StatusTooManyRequests, keyapi.Error{Code: keyapi.CodeTooMany, Message: "busy"})
			return
		}
		b, err := io.ReadAll(r.Body)
		var q keyapi.VouchRequest
		if err != nil || manifest.DecodeJSON(b, &q) != nil || r.URL.Path != "/v1/vouch" || r.Method != http.MethodPost || r.TLS.Version != tls.VersionTLS13 {
			reply(w, http.StatusBadRequest, keyapi.Error{Code: keyapi.CodeBadRequest})
			return
		}
		reply(w, http.StatusOK, keyapi.VouchResponse{Voucher: q.Service + " " + q.Credential})
	})
	f, err := SlurmEvidence(v, fakeMunge(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f(context.Background(), "keys", testClaim())
	var p keyapi.SlurmPayload
	if err != nil || got.Decode(keyapi.EvidenceSlurm, &p) != nil || !strings.HasPrefix(p.Voucher, "keys MUNGE:") || calls.Load() != 2 {
		t.Errorf("after %d calls: %+v, %v", calls.Load(), got, err)
	}
}

func TestSlurmEvidenceErrors(t *testing.T) {
	t.Parallel()
	refuse := func(status int, e keyapi.Error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { reply(w, status, e) }
	}
	refused := fakeVerifier(t, refuse(http.StatusForbidden, keyapi.Error{Code: keyapi.CodeAttestation, Message: "not running", Hint: "wait"}))
	f, err := SlurmEvidence(refused, fakeMunge(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f(context.Background(), "keys", testClaim())
	var e *VerifierError
	if !errors.As(err, &e) || !errors.Is(err, ErrVerifierRefused) || e.Status != 403 || e.Answer.Code != keyapi.CodeAttestation ||
		!strings.Contains(err.Error(), "not running") || !strings.Contains(err.Error(), "wait") {
		t.Errorf("refusal: %v", err)
	}
	if _, err := SlurmEvidence(manifest.Verifier{URL: refused.URL}, munge.Commands{}); err == nil {
		t.Error("a verifier without a CA passed")
	}
	broken, err := SlurmEvidence(refused, munge.Commands{MungePath: sitecmdtest.Script(t, "exit 1")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken(context.Background(), "keys", testClaim()); !errors.Is(err, sitecmd.ErrFailed) {
		t.Errorf("MUNGE fails: %v", err)
	}
}

// TestVerifierUntrustworthy asks each server once, without the pauses between attempts.
func TestVerifierUntrustworthy(t *testing.T) {
	t.Parallel()
	redirected := fakeVerifier(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, keyapi.VouchResponse{Voucher: "x"}) })
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, redirected.URL+"/v1/vouch", http.StatusTemporaryRedirect)
		},
		"no JSON":           func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"no voucher":        func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, keyapi.VouchResponse{}) },
		"unknown field":     func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"voucher":"x","more":1}`) },
		"HTML error":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) },
		"endless":           func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxVoucher+1)) },
		"connection is cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		v := fakeVerifier(t, h)
		c, err := PinnedClient(v.CA, verifierAnswer)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := vouch(context.Background(), c, v.URL+"/v1/vouch", keyapi.VouchRequest{}); !errors.Is(err, ErrVerifierUnreachable) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	// Another authority's certificate, for the same name and address.
	c, err := PinnedClient(otherAuthority(t), verifierAnswer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vouch(context.Background(), c, redirected.URL, keyapi.VouchRequest{}); !errors.Is(err, ErrVerifierUnreachable) {
		t.Errorf("another authority: %v", err)
	}
}

// otherAuthority returns the certificate of an authority that signed nothing here.
func otherAuthority(t *testing.T) string {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, c, c, pub, priv)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
