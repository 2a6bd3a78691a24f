package munge

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/munge/mungetest"
	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/sitecmd/sitecmdtest"
)

// TestMunge uses real munged daemons, as on two hosts of a cluster.
func TestMunge(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	realm := mungetest.NewRealm(t)
	node := Commands{Socket: realm.Host(t, "10.77.0.4")}
	verifier := Commands{Socket: realm.Host(t, "10.77.0.3")}
	me := os.Geteuid()
	payload := []byte("sealbatch-munge-v1 " + strings.Repeat("0a", 32))

	cred, err := node.Encode(ctx, strconv.Itoa(me), payload)
	if err != nil {
		t.Fatal(err)
	}
	got, err := verifier.Decode(ctx, cred)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Payload, payload) || got.UID != uint32(me) || got.GID != uint32(os.Getegid()) ||
		got.Host != netip.MustParseAddr("10.77.0.4") || got.TTL != TTL || got.RestrictUID != int64(me) {
		t.Errorf("got %+v", got)
	}
	if age := time.Since(got.Encoded); age < -time.Second || age > time.Minute || got.Decoded.Before(got.Encoded) {
		t.Errorf("encoded %v, decoded %v", got.Encoded, got.Decoded)
	}
	if got, err := verifier.Decode(ctx, cred); !errors.Is(err, ErrRefused) || got.Payload != nil ||
		!strings.Contains(err.Error(), "used before") {
		t.Errorf("replayed on the same host: %+v, %v", got, err)
	}
	// MUNGE's cache is per host: this is why the service's nonce matters.
	if _, err := node.Decode(ctx, cred); err != nil {
		t.Errorf("replayed on another host, which MUNGE accepts: %v", err)
	}

	restricted, uid := mungetest.Credential(t, node.Socket, payload, "--restrict-uid=12345")
	if _, err := verifier.Decode(ctx, restricted); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "another user") {
		t.Errorf("restricted to another user: %v", err)
	}
	free, _ := mungetest.Credential(t, node.Socket, []byte("a\nUID: 0\n\nx\n"), "--ttl=120")
	got, err = verifier.Decode(ctx, free)
	if err != nil || got.RestrictUID != -1 || got.TTL != 2*time.Minute || got.UID != uid || string(got.Payload) != "a\nUID: 0\n\nx\n" {
		t.Errorf("unrestricted: %+v, %v", got, err)
	}
	foreign, _ := mungetest.Credential(t, mungetest.NewRealm(t).Host(t, "10.77.0.4"), payload)
	if _, err := verifier.Decode(ctx, foreign); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "another realm") {
		t.Errorf("of another realm: %v", err)
	}
	for name, bad := range map[string]string{
		"empty": "", "not a credential": "hello", "cut": cred[:len(cred)-1], "two": cred + "\n" + cred,
		"altered": cred[:40] + "AAAA" + cred[44:], "too large": "MUNGE:" + strings.Repeat("A", maxCredential) + ":",
	} {
		if _, err := verifier.Decode(ctx, bad); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", name, err)
		}
	}
}

func TestMungeFails(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	none := filepath.Join(t.TempDir(), "none")
	if _, err := (Commands{Socket: none}).Encode(ctx, "root", []byte("x")); !errors.Is(err, sitecmd.ErrFailed) ||
		!strings.Contains(err.Error(), none) {
		t.Errorf("no munged: %v", err)
	}
	if _, err := (Commands{Socket: none}).Decode(ctx, "MUNGE:AAAA:"); !errors.Is(err, sitecmd.ErrFailed) || errors.Is(err, ErrRefused) {
		t.Errorf("no munged to decode: %v", err)
	}
	if _, err := (Commands{}).Encode(ctx, "", []byte("x")); err == nil {
		t.Error("a credential for anybody was asked for")
	}
	if _, err := (Commands{MungePath: "munge"}).Encode(ctx, "root", nil); !errors.Is(err, sitecmd.ErrFailed) {
		t.Errorf("relative path: %v", err)
	}
	loud := sitecmdtest.Script(t, "cat /dev/zero")
	if _, err := (Commands{MungePath: loud}).Encode(ctx, "root", nil); !errors.Is(err, sitecmd.ErrFailed) ||
		!strings.Contains(err.Error(), "more than") {
		t.Errorf("endless output: %v", err)
	}
	wordy := sitecmdtest.Script(t, "head -c 1000000 /dev/zero >&2; exit 1")
	if _, err := (Commands{MungePath: wordy}).Encode(ctx, "root", nil); !errors.Is(err, sitecmd.ErrFailed) || len(err.Error()) > 2<<10 {
		t.Errorf("endless complaint: %v", err)
	}
	early, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := (Commands{MungePath: sitecmdtest.Script(t, "exec sleep 100")}).Encode(early, "root",
		nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("endless wait: %v", err)
	}
}

const goodHeader = "STATUS:          0\nENCODE_HOST:     10.77.0.4\nENCODE_TIME:     1795352912\nDECODE_TIME:     1795352913\n" +
	"TTL:             60\nUID:             1000\nGID:             1001\nUID_RESTRICTION: 990\nLENGTH:          5\n\n"

func TestParseCredential(t *testing.T) {
	t.Parallel()
	m, err := parseCredential(goodHeader + "he\n\no")
	if err != nil || string(m.Payload) != "he\n\no" || m.UID != 1000 || m.RestrictUID != 990 {
		t.Errorf("got %+v, %v", m, err)
	}
	swap := func(old, new string) string { return strings.Replace(goodHeader+"hello", old, new, 1) }
	for name, s := range map[string]string{
		"empty":           "",
		"no payload":      goodHeader,
		"longer payload":  goodHeader + "hello!",
		"replayed":        swap("STATUS:          0", "STATUS:          17"),
		"status by name":  swap("STATUS:          0", "STATUS:          Success (0)"),
		"host by name":    swap("10.77.0.4", "cn1 (10.77.0.4)"),
		"IPv6 host":       swap("10.77.0.4", "fe80::1"),
		"user by name":    swap("1000", "alice (1000)"),
		"negative":        swap("1000", "-1"),
		"beyond 32 bits":  swap("1000", "4294967296"),
		"line missing":    swap("UID:             1000\n", ""),
		"line twice":      swap("UID:             1000\n", "UID:             1000\nUID:             0\n"),
		"order":           swap("UID:             1000\nGID:             1001", "GID:             1001\nUID:             1000"),
		"unknown line":    swap("LENGTH", "COLOUR: 1\nLENGTH"),
		"line after last": swap("5\n\n", "5\nUID: 0\n\n"),
	} {
		if m, err := parseCredential(s); err == nil {
			t.Errorf("%s: got %+v", name, m)
		}
	}
}

func FuzzParseCredential(f *testing.F) {
	f.Add(goodHeader + "hello")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseCredential(s)
		if err == nil && (!strings.HasSuffix(s, "\n\n"+string(m.Payload)) || !strings.HasPrefix(s, "STATUS:") || !m.Host.Is4()) {
			t.Errorf("%q gives %+v", s, m)
		}
	})
}
