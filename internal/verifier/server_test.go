package verifier

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence/voucher"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/munge/mungetest"
)

// serve runs v's server on loopback and returns its URL and authority.
func serve(t *testing.T, v *Verifier) (url, ca string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(nil, c, c, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Serve(ctx, l, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return "https://" + l.Addr().String(), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestNodeToVerifier takes the node's own way: MUNGE on one host, TLS, and
// the verifier's munged on another.
func TestNodeToVerifier(t *testing.T) {
	t.Parallel()
	realm := mungetest.NewRealm(t)
	s := newSite(t)
	_, uid := mungetest.Credential(t, realm.Host(t, nodeAddress), nil)
	s.job["UserID"] = fmt.Sprint(uid)
	c := s.config(t, nil)
	c.Munge = munge.Commands{Socket: realm.Host(t, "10.77.0.3")}
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	url, ca := serve(t, v)
	where := voucher.Parameters{URL: url, CA: ca, MungeUser: fmt.Sprint(os.Geteuid())}
	attest, err := voucher.Attest("box", where, munge.Commands{MungePath: mungeAs(t, uid), Socket: realm.Host(t, nodeAddress)})
	if err != nil {
		t.Fatal(err)
	}
	ev, err := attest(context.Background(), testService, s.claim)
	if err != nil {
		t.Fatalf("%v\n%s", err, &s.log)
	}
	var p keyapi.SlurmPayload
	if err := ev.Decode(keyapi.EvidenceSlurm, &p); err != nil {
		t.Fatal(err)
	}
	var got keyapi.Voucher
	pub := s.key.Public().(ed25519.PublicKey)
	if err := manifest.VerifyJWS(manifest.TypeVoucher, pub, p.Voucher, &got); err != nil || got.UID != int64(uid) {
		t.Errorf("voucher %+v, %v", got, err)
	}
	s.claim.Job.ID++
	if _, err := attest(context.Background(), testService, s.claim); !errors.Is(err, keyclient.ErrVerifierRefused) {
		t.Errorf("another job: %v", err)
	}
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}}} // the handshake must fail before trust matters
	if resp, err := old.Get(url); err == nil {
		resp.Body.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

// mungeAs wraps munge for tests run by root, who gets no voucher.
func mungeAs(t *testing.T, uid uint32) string {
	t.Helper()
	if uid == uint32(os.Geteuid()) {
		return "/usr/bin/munge"
	}
	p := filepath.Join(t.TempDir(), "munge")
	body := fmt.Sprintf("#!/bin/sh\nexec /usr/bin/munge --uid=%d --gid=%d \"$@\"\n", uid, uid)
	// A process that another test forks meanwhile must not hold it open for writing.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(p, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestNodesClock has a node whose clock is an hour off ask, and says so to the user.
func TestNodesClock(t *testing.T) {
	t.Parallel()
	realm := mungetest.NewRealm(t)
	s := newSite(t)
	c := s.config(t, nil)
	c.Munge = munge.Commands{Socket: realm.Host(t, "10.77.0.3")}
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	url, ca := serve(t, v)
	where := voucher.Parameters{URL: url, CA: ca, MungeUser: fmt.Sprint(os.Geteuid())}
	for want, ahead := range map[string]time.Duration{
		"made in the future": time.Hour, "expired": -time.Hour,
	} {
		attest, err := voucher.Attest("box", where, munge.Commands{Socket: realm.HostWithClock(t, nodeAddress, ahead)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = attest(t.Context(), testService, s.claim)
		if !errors.Is(err, keyclient.ErrVerifierRefused) ||
			!strings.Contains(err.Error(), "MUNGE refuses the credential: "+want+", or the hosts' clocks differ") ||
			!strings.Contains(err.Error(), "compare the node's clock with the verifier's") {
			t.Errorf("%v ahead: %v", ahead, err)
		}
	}
}
