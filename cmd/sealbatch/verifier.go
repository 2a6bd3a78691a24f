package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/setup"
	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/internal/verifier"
	"github.com/sealbatch/sealbatch/internal/version"
	"github.com/sealbatch/sealbatch/slurm"
)

func runVerifier(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch verifier", "Run the verifier of a cluster, or set one up with --init.", "", `
sealbatch verifier --init /etc/sealbatch --cluster puhti --host verifier.puhti.example.org --munge-user slurm \
    --service-url https://keys.example.org:8443 --service-ca keys-ca.pem
sealbatch verifier --config /etc/sealbatch/verifier.conf --check
sealbatch verifier --config /etc/sealbatch/verifier.conf`)
	var conf string
	var check bool
	s := setup.VerifierOptions{Listen: "0.0.0.0:8444", MungeUser: "slurm"}
	f.String(&conf, "configuration file, as in verifier.conf.example", []string{"config"})
	f.Bool(&check, "say what is wrong with the set-up that --config names, and exit; nothing is started", []string{"check"})
	f.String(&s.Dir, "make all that a new verifier needs in this directory (DIR), and exit", []string{"init"})
	f.Word(&s.Cluster, "with --init: name of the cluster, Slurm's ClusterName", []string{"cluster"})
	f.List(&s.Hosts, "with --init: names and addresses for its certificate; nodes use the first", []string{"host"})
	f.Word(&s.Listen, "with --init: address to listen on", []string{"listen"})
	f.Word(&s.MungeUser, "with --init: Unix user as whom the verifier will run; it must be a Slurm operator", []string{"munge-user"})
	f.Word(&s.ServiceURL, "with --init: the key service, for nodes that cannot reach it themselves", []string{"service-url"})
	f.String(&s.ServiceCA, "with --init: PEM file with the key service's authority", []string{"service-ca"})
	f.String(&s.Offline, "with --init: directory of the authority's key, to be taken away (default: DIR-offline)",
		[]string{"offline"})
	if err := a.parse(f, args); err != nil {
		return err
	}
	switch {
	case s.Dir != "":
		return initVerifier(a, s)
	case conf == "":
		return usageError("sealbatch verifier: --config or --init is needed", "sealbatch verifier --help shows an example")
	case check:
		return checkVerifier(a, conf)
	}
	c, err := config.LoadVerifier(conf)
	if err != nil {
		return err
	}
	return verify(ctx, a, c)
}

// initVerifier sets up a verifier: keys, certificates, configuration, and the
// lines that enrol it at the key service.
func initVerifier(a *app, o setup.VerifierOptions) error {
	if err := notStdout(o.Dir); err != nil {
		return err
	}
	if o.Cluster == "" || len(o.Hosts) == 0 {
		return usageError("sealbatch verifier --init: --cluster and --host are needed", "sealbatch verifier --help shows an example")
	}
	if (o.ServiceURL == "") != (o.ServiceCA == "") {
		return usageError("sealbatch verifier --init: --service-url and --service-ca go together", "")
	}
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		return fault.New(fault.Usage, wrap("--listen", err), "write ADDRESS:PORT")
	}
	l, err := setup.NewVerifier(o)
	if err != nil {
		return userHint(err)
	}
	fmt.Fprintf(a.stderr, `the verifier of %s is set up in %s
  list the nodes in        %s
  enrol it                 append %s to the key service's server.conf, with %s beside that
  take off this machine    %s: the authority's key, which renews the certificate
  start it                 %s
`, o.Cluster, o.Dir, l.Nodes, l.Enrol, l.CA, filepath.Dir(l.CAKey),
		startAs(o.MungeUser, "sealbatch verifier --config "+l.Config))
	fmt.Fprintln(a.stdout, l.Config)
	return nil
}

// verify runs the verifier until ctx ends.
func verify(ctx context.Context, a *app, c *config.Verifier) error {
	if err := checkMungeUser(c.MungeUser); err != nil {
		return err
	}
	key, err := ed25519PrivateKey(c.SigningKey)
	if err != nil {
		return fault.New(fault.Config, wrap("signing-key", err), "")
	}
	cert, err := setup.Certificates{TLSCert: c.TLSCert, TLSKey: c.TLSKey}.Load()
	if err != nil {
		return err
	}
	nodes, err := tableOfNodes(c)
	if err != nil {
		return fault.New(fault.Config, err, "")
	}
	ca, err := serviceCA(c)
	if err != nil {
		return fault.New(fault.Config, err, "")
	}
	v, err := verifier.New(verifier.Config{
		Cluster: c.Cluster, Key: key, Nodes: nodes, Munge: munge.Commands{Socket: c.MungeSocket},
		Squeue:     slurm.Squeue{Path: filepath.Join(c.SlurmBin, "squeue"), SlurmConf: c.SlurmConf},
		ServiceURL: c.ServiceURL, ServiceCA: ca, Log: a.log, Limits: verifierLimits(c.Limits),
	})
	if err != nil {
		return fault.New(fault.Config, err, "")
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	warnRoot(a.log)
	a.log.Info("verifier is ready", "version", version.String(), "cluster", c.Cluster, "nodes", len(nodes), "listen", ln.Addr().String())
	return v.Serve(ctx, ln, cert)
}

// tableOfNodes reads which address belongs to which node.
func tableOfNodes(c *config.Verifier) (map[string]netip.Addr, error) {
	f, err := trusted.Open(c.NodesFile, trusted.Public)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return verifier.ParseNodes(f)
}

// serviceCA reads whom the verifier trusts for the key service; "" if it relays nothing.
func serviceCA(c *config.Verifier) (string, error) {
	if c.ServiceCA == "" {
		return "", nil
	}
	b, err := trusted.ReadFile(c.ServiceCA, maxSmallFile)
	return string(b), err
}

func verifierLimits(l config.VerifierLimits) verifier.Limits {
	return verifier.Limits{
		Concurrent: l.ConcurrentRequests, Relayed: l.RelayedRequests, Connections: l.Connections, Memory: int64(l.BodyMemory),
		PerSecond: float64(l.RatePerSecond), Burst: l.Burst,
	}
}

// checkMungeUser makes sure that the verifier runs as the user to whom nodes
// restrict their credentials: it could decode none otherwise.
func checkMungeUser(name string) error {
	if name == "" {
		return nil
	}
	u, err := sitecmd.Lookup(context.Background(), name)
	if err == nil && int(u.UID) != os.Geteuid() {
		err = fmt.Errorf("this process has uid %d, user %s has %d", os.Geteuid(), name, u.UID)
	}
	return fault.New(fault.Config, wrap("[verifier] munge-user", err), "start the verifier as the user "+name)
}

func ed25519PrivateKey(path string) (ed25519.PrivateKey, error) {
	b, err := trusted.ReadSecret(path, maxSmallFile)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is not a PEM file", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if priv, ok := k.(ed25519.PrivateKey); ok && err == nil {
		return priv, nil
	}
	return nil, fmt.Errorf("%s holds no Ed25519 private key", path)
}
