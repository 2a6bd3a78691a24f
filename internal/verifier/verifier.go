package verifier

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/slurm"
)

// Config says what a verifier vouches for and how it asks.
type Config struct {
	Cluster string // as the key service calls it; required
	// Key signs vouchers; its public half is enrolled at the key service.
	Key ed25519.PrivateKey
	// Nodes gives each node's address (ParseNodes); required.
	Nodes map[string]netip.Addr
	// Munge and Squeue reach the site's commands. Squeue.SlurmConf
	// should be set.
	Munge  munge.Commands
	Squeue slurm.Squeue
	// LookupUser resolves a uid; nil asks getent and id.
	LookupUser func(context.Context, uint32) (User, error)
	// ServiceURL is the key service that nodes may reach through the
	// verifier, ServiceCA (PEM) what alone vouches for its certificate.
	// Without a URL nothing is relayed.
	ServiceURL, ServiceCA string
	Limits                Limits
	Log                   *slog.Logger     // nil discards
	Now                   func() time.Time // nil is time.Now
}

// Verifier vouches for claims. Its methods may be called concurrently.
type Verifier struct {
	config Config
	uid    uint32 // whom credentials must be restricted to: ourselves
	front  *service.Service
	relay  *http.Client // nil: nothing is relayed

	cert       tls.Certificate // that Serve was given
	conditions service.Conditions
}

// New checks c and returns a verifier.
func New(c Config) (*Verifier, error) {
	switch {
	case c.Cluster == "":
		return nil, errors.New("verifier: no cluster name")
	case len(c.Key) != ed25519.PrivateKeySize:
		return nil, errors.New("verifier: no Ed25519 signing key")
	case len(c.Nodes) == 0:
		return nil, errors.New("verifier: no table of nodes")
	}
	for name, a := range c.Nodes {
		if !usable(a) {
			return nil, fmt.Errorf("verifier: the address %s of node %s cannot tell it from others", a, name)
		}
	}
	c.Limits = c.Limits.withDefaults()
	if c.LookupUser == nil {
		c.LookupUser = users{}.lookup
	}
	c.Log = service.Logger(c.Log)
	if c.Now == nil {
		c.Now = time.Now
	}
	v := &Verifier{config: c, uid: uint32(os.Geteuid()), front: service.New(service.Config{
		Name: "verifier", LogHint: logHint, Log: c.Log, Times: times, MaxHeader: maxHeader,
		Limits: gate.Limits{Connections: c.Limits.Connections, PerSecond: c.Limits.PerSecond, Burst: c.Limits.Burst, Memory: c.Limits.Memory,
			Small: gate.SmallBody},
	})}
	return v, v.setUpRelay()
}

func (v *Verifier) setUpRelay() (err error) {
	if v.config.ServiceURL == "" {
		return nil
	}
	if !strings.HasPrefix(v.config.ServiceURL, "https://") {
		return fmt.Errorf("verifier: the key service's URL %.200q is not https", v.config.ServiceURL)
	}
	v.config.ServiceURL = strings.TrimSuffix(v.config.ServiceURL, "/")
	if v.relay, err = keyclient.PinnedClient(v.config.ServiceCA, relayTimeout); err != nil {
		return fmt.Errorf("verifier: key service: %w", err)
	}
	return nil
}
