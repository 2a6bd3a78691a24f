package keyclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
)

// roots returns who may vouch for the server's certificate; nil are this machine's authorities.
func (o Options) roots() (*x509.CertPool, error) {
	if o.SystemRoots {
		if len(o.CA) > 0 {
			return nil, errors.New("key service: either its CA or the system's authorities vouch for it, not both")
		}
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(o.CA) {
		return nil, errors.New("key service: its CA (ca-cert) holds no PEM certificate")
	}
	return pool, nil
}

// noteRoot keeps the authority that vouched on the first connection that had an answer.
func (c *Client) noteRoot(s *tls.ConnectionState) {
	if s == nil || len(s.VerifiedChains) == 0 {
		return
	}
	chain := s.VerifiedChains[0]
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.root == nil {
		c.root = chain[len(chain)-1]
	}
}

// Root returns the one authority, in PEM, that vouched for the service when it was asked who it is. It is what
// a node has to believe that is to reach the same service, and nothing else.
func (c *Client) Root(ctx context.Context) ([]byte, error) {
	if _, err := c.Service(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.root.Raw}), nil
}
