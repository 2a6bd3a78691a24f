package keyclient_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyclient"
)

// TestCertificateAndClock meets a certificate that is not good by this
// machine's clock: either of the two is wrong, and the error says so.
func TestCertificateAndClock(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, good := range map[string][2]time.Time{
		"not yet": {now.Add(time.Hour), now.Add(2 * time.Hour)},
		"expired": {now.Add(-2 * time.Hour), now.Add(-time.Hour)},
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: good[0], NotAfter: good[1], IsCA: true,
			BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		s.StartTLS()
		t.Cleanup(s.Close)
		_, err = newClient(t, keyclient.Options{URL: s.URL,
			CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}).Service(t.Context())
		if !errors.Is(err, keyclient.ErrService) || !strings.Contains(err.Error(), good[0].UTC().Format(time.RFC3339)) ||
			!strings.Contains(err.Error(), "this machine's clock says") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
