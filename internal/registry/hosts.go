package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// hosts has one transport for each host, which believes the authorities that the
// machine, and for this host the user or Docker's and Podman's directories, name.
type hosts struct {
	proxy  func(*http.Request) (*url.URL, error)
	getenv func(string) string
	stall  time.Duration

	mu   sync.Mutex
	open map[string]*http.Transport
}

func (h *hosts) to(host string) (http.RoundTripper, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.open[host]; t != nil {
		return t, nil
	}
	config, err := h.tls(host)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy: h.proxy, TLSClientConfig: config, ForceAttemptHTTP2: true,
		DialContext:           (&net.Dialer{Timeout: h.stall, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   h.stall,
		ResponseHeaderTimeout: h.stall,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true, // a layer is what its digest says, packed as it is
	}
	if h.open == nil {
		h.open = map[string]*http.Transport{}
	}
	h.open[host] = t
	return t, nil
}

func (h *hosts) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.open {
		t.CloseIdleConnections()
	}
}

// maxPEM bounds a file of certificates or a key.
const maxPEM = 1 << 20

// tls returns what to believe, and to show, when speaking to host. In a directory
// named after it ("registry.lab:5000"), *.crt are authorities, and *.cert with *.key
// of the same name the user's own certificate (docs.docker.com/engine/security/certificates).
func (h *hosts) tls(host string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, dir := range h.certDirs(host) {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		for _, e := range entries {
			if err == nil {
				err = add(config, filepath.Join(dir, e.Name()))
			}
		}
		if err != nil {
			return nil, fault.New(fault.Config, fmt.Errorf("certificates for %s: %w", host, err), "")
		}
	}
	return config, nil
}

func (h *hosts) certDirs(host string) (dirs []string) {
	if strings.Trim(host, ".") == "" || strings.ContainsAny(host, "/\\") {
		return nil
	}
	if home := h.getenv("HOME"); home != "" {
		dirs = append(dirs, filepath.Join(home, ".config/containers/certs.d"),
			filepath.Join(home, ".config/docker/certs.d"))
	}
	dirs = append(dirs, "/etc/containers/certs.d", "/etc/docker/certs.d")
	for i := range dirs {
		dirs[i] = filepath.Join(dirs[i], host)
	}
	return dirs
}

// add takes one file of such a directory.
func add(config *tls.Config, path string) error {
	switch filepath.Ext(path) {
	case ".crt":
		pem, err := trusted.ReadFile(path, maxPEM)
		if err != nil {
			return err
		}
		if config.RootCAs == nil {
			if config.RootCAs, err = x509.SystemCertPool(); err != nil {
				return fmt.Errorf("the machine's authorities: %w", err)
			}
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s holds no certificate in PEM", path)
		}
	case ".cert":
		cert, err := trusted.ReadFile(path, maxPEM)
		if err != nil {
			return err
		}
		key, err := trusted.ReadSecret(strings.TrimSuffix(path, ".cert")+".key", maxPEM)
		if err != nil {
			return err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("%s and its key: %w", path, err)
		}
		config.Certificates = append(config.Certificates, pair)
	}
	return nil
}
