package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/internal/verifier"
	"github.com/sealbatch/sealbatch/slurm"
)

// verifierSetup are the flags of verifier --init.
type verifierSetup struct {
	dir, cluster, listen, mungeUser, serviceURL, serviceCA string
	hosts                                                  []string
}

func runVerifier(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch verifier", "Run the verifier of a cluster, or set one up with --init.", "", `
sealbatch verifier --init /etc/sealbatch --cluster puhti --host verifier.puhti.example.org --munge-user slurm \
    --service-url https://keys.example.org:8443 --service-ca keys-ca.pem
sealbatch verifier --config /etc/sealbatch/verifier.conf`)
	var conf string
	s := verifierSetup{listen: "0.0.0.0:8444", mungeUser: "slurm"}
	f.String(&conf, "configuration file, as in verifier.conf.example", []string{"config"})
	f.String(&s.dir, "make all that a new verifier needs in this directory, and exit", []string{"init"})
	f.Word(&s.cluster, "with --init: name of the cluster, Slurm's ClusterName", []string{"cluster"})
	f.List(&s.hosts, "with --init: names and addresses for its certificate; nodes use the first", []string{"host"})
	f.Word(&s.listen, "with --init: address to listen on", []string{"listen"})
	f.Word(&s.mungeUser, "with --init: Unix user as whom the verifier will run; it must be a Slurm operator", []string{"munge-user"})
	f.Word(&s.serviceURL, "with --init: the key service, for nodes that cannot reach it themselves", []string{"service-url"})
	f.String(&s.serviceCA, "with --init: PEM file with the key service's authority", []string{"service-ca"})
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	switch {
	case s.dir != "":
		return s.run(a)
	case conf == "":
		return usageError("sealbatch verifier: --config or --init is needed", "sealbatch verifier --help shows an example")
	}
	c, err := config.LoadVerifier(conf)
	if err != nil {
		return err
	}
	return verify(ctx, a, c)
}

// run sets up a verifier: keys, certificates, configuration, and the lines
// that enrol it at the key service.
func (s verifierSetup) run(a *app) error {
	if s.cluster == "" || len(s.hosts) == 0 {
		return usageError("sealbatch verifier --init: --cluster and --host are needed", "sealbatch verifier --help shows an example")
	}
	if (s.serviceURL == "") != (s.serviceCA == "") {
		return usageError("sealbatch verifier --init: --service-url and --service-ca go together", "")
	}
	_, port, err := net.SplitHostPort(s.listen)
	if err != nil {
		return fault.New(fault.Usage, wrap("--listen", err), "write ADDRESS:PORT")
	}
	in := func(name string) string { return filepath.Join(s.dir, name) }
	l := keyserver.Layout{CA: in("verifier-ca.crt"), CAKey: in("verifier-ca.key"), TLSCert: in("verifier.crt"), TLSKey: in("verifier.key")}
	if err := noneExists(l.CA, l.CAKey, l.TLSCert, l.TLSKey, in("verifier-signing.pem"), in("verifier.conf"), in("enrol.conf"), in("nodes")); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	if err := l.WriteCertificates(s.hosts); err != nil {
		return err
	}
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("# The verifier of %s. verifier.conf.example explains every key.\n[verifier]\ncluster = %s\nlisten = %s\n"+
		"tls-cert = verifier.crt\ntls-key = verifier.key\nsigning-key = verifier-signing.pem\nnodes-file = nodes\nmunge-user = %s\n", s.cluster, s.cluster, s.listen, s.mungeUser)
	if s.serviceURL != "" {
		ca, err := filepath.Abs(s.serviceCA)
		if err != nil {
			return err
		}
		conf += fmt.Sprintf("service-url = %s\nservice-ca = %s\n", s.serviceURL, ca)
	}
	enrol := fmt.Sprintf("\n[cluster %s]\nverifier-url = https://%s\nverifier-ca = verifier-ca.crt\nverifier-key = %s\nmunge-user = %s\n",
		s.cluster, net.JoinHostPort(s.hosts[0], port), base64.StdEncoding.EncodeToString(pub), s.mungeUser)
	for _, file := range []struct {
		name, text string
		mode       os.FileMode
	}{
		{"verifier-signing.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600},
		{"verifier.conf", conf, 0o644},
		{"enrol.conf", enrol, 0o644},
		{"nodes", "# NODE ADDRESS, one a line: the IPv4 address that MUNGE on that node gives itself\n", 0o644},
	} {
		if err := fsx.WriteNew(in(file.name), []byte(file.text), file.mode); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.stderr, `the verifier of %s is set up in %s
  the files belong to      the user %s, as whom it runs
  list the nodes in        %s
  enrol it                 append %s to the key service's server.conf, with %s beside that
  start it                 sealbatch verifier --config %s
`, s.cluster, s.dir, s.mungeUser, in("nodes"), in("enrol.conf"), l.CA, in("verifier.conf"))
	fmt.Fprintln(a.stdout, in("verifier.conf"))
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
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return fault.New(fault.Config, wrap("TLS certificate", err), "")
	}
	nf, err := os.Open(c.NodesFile)
	if err != nil {
		return fault.New(fault.Config, err, "")
	}
	defer nf.Close()
	nodes, err := verifier.ParseNodes(nf)
	if err != nil {
		return fault.New(fault.Config, err, "")
	}
	ca := ""
	if c.ServiceCA != "" {
		b, err := fsx.ReadFile(c.ServiceCA, maxSmallFile)
		if err != nil {
			return fault.New(fault.Config, err, "")
		}
		ca = string(b)
	}
	v, err := verifier.New(verifier.Config{
		Cluster: c.Cluster, Key: key, Nodes: nodes, Munge: munge.Commands{Socket: c.MungeSocket},
		Squeue:     slurm.Squeue{Path: filepath.Join(c.SlurmBin, "squeue"), SlurmConf: c.SlurmConf},
		ServiceURL: c.ServiceURL, ServiceCA: ca, Log: a.log,
	})
	if err != nil {
		return fault.New(fault.Config, err, "")
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	a.log.Info("verifier is ready", "cluster", c.Cluster, "nodes", len(nodes), "listen", ln.Addr().String())
	return v.Serve(ctx, ln, cert)
}

// checkMungeUser makes sure that the verifier runs as the user to whom nodes
// restrict their credentials: it could decode none otherwise.
func checkMungeUser(name string) error {
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if err == nil && u.Uid != strconv.Itoa(os.Geteuid()) {
		err = fmt.Errorf("this process has uid %d, user %s has %s", os.Geteuid(), name, u.Uid)
	}
	return fault.New(fault.Config, wrap("[verifier] munge-user", err), "start the verifier as the user "+name)
}

func ed25519PrivateKey(path string) (ed25519.PrivateKey, error) {
	b, err := fsx.ReadFile(path, maxSmallFile)
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
