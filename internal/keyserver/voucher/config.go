package voucher

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// maxKeyFile bounds a file with a key or authorities, in bytes.
const maxKeyFile = 1 << 20

// FromConfig enrols the verifiers of the configuration's clusters.
func FromConfig(c *config.Server) (attest.New, error) {
	if err := store.Parameters(c.Attestors[keyapi.EvidenceSlurm]).Only(); err != nil {
		return nil, err
	}
	verifiers, err := enrolled(c.Clusters)
	return New(verifiers...), err
}

// enrolled turns the configuration's clusters into verifiers.
func enrolled(clusters []config.ClusterConf) ([]Verifier, error) {
	var out []Verifier
	for _, c := range clusters {
		key, err := ed25519Key(c.VerifierKey)
		if err != nil {
			return nil, fmt.Errorf("[cluster %s] verifier-key: %w", c.Name, err)
		}
		ca, err := trusted.ReadFile(c.VerifierCA, maxKeyFile)
		if err != nil {
			return nil, fmt.Errorf("[cluster %s] verifier-ca: %w", c.Name, err)
		}
		tier, err := manifest.ParseTier(c.Tier)
		if err != nil {
			return nil, fmt.Errorf("[cluster %s] tier: %w", c.Name, err)
		}
		out = append(out, Verifier{Key: key, Cluster: keyapi.Cluster{Tier: tier,
			Name: c.Name, VerifierURL: c.VerifierURL, VerifierCA: string(ca), MungeUser: c.MungeUser}})
	}
	return out, nil
}

// ed25519Key reads a public key: base64, or a PEM file (PKIX).
func ed25519Key(s string) (ed25519.PublicKey, error) {
	if b, err := base64.StdEncoding.DecodeString(s); err == nil && len(b) == ed25519.PublicKeySize {
		return b, nil
	}
	b, err := trusted.ReadFile(s, maxKeyFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("is neither base64 of an Ed25519 key nor a PEM file")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if pub, ok := k.(ed25519.PublicKey); ok && err == nil {
		return pub, nil
	}
	return nil, fmt.Errorf("%s holds no Ed25519 public key", s)
}
