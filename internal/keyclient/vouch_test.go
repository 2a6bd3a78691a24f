package keyclient

import (
	"crypto/ed25519"
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
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
)

// fakeVerifier serves h over TLS and returns its address and authority.
func fakeVerifier(t *testing.T, h http.HandlerFunc) (url, ca string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	pemCA := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return s.URL, string(pemCA)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// TestVerifierUntrustworthy asks each server once, without the pauses between attempts.
func TestVerifierUntrustworthy(t *testing.T) {
	t.Parallel()
	redirected, ca := fakeVerifier(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, keyapi.VouchResponse{Voucher: "x"}) })
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, redirected+"/v1/vouch", http.StatusTemporaryRedirect)
		},
		"no JSON":           func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"no voucher":        func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, keyapi.VouchResponse{}) },
		"unknown field":     func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"voucher":"x","more":1}`) },
		"HTML error":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) },
		"endless":           func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxVoucher+1)) },
		"connection is cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		v, err := NewVerifier(fakeVerifier(t, h))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := v.Vouch(t.Context(), keyapi.VouchRequest{}); !errors.Is(err, ErrVerifierUnreachable) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	if _, err := NewVerifier(redirected, ""); err == nil {
		t.Error("a verifier without a CA passed")
	}
	if v, err := NewVerifier(redirected, ca); err != nil {
		t.Error(err)
	} else if got, err := v.Vouch(t.Context(), keyapi.VouchRequest{}); err != nil || got != "x" {
		t.Errorf("control: %q, %v", got, err)
	}
	// Another authority's certificate, for the same name and address.
	v, err := NewVerifier(redirected, otherAuthority(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Vouch(t.Context(), keyapi.VouchRequest{}); !errors.Is(err, ErrVerifierUnreachable) {
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
