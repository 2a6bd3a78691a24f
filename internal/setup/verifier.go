package setup

import (
	"cmp"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Verifier is where a verifier's files are.
type Verifier struct {
	Certificates
	Config     string // verifier.conf
	SigningKey string // PEM, PKCS#8, Ed25519
	Nodes      string // table of nodes and addresses, empty at first
	Enrol      string // [cluster NAME], to be appended to the key service's server.conf
}

// VerifierOptions describe a verifier that is to be made. All but the last three
// are required.
type VerifierOptions struct {
	Dir       string
	Cluster   string   // Slurm's ClusterName
	Hosts     []string // names and addresses of its certificate; nodes use the first
	Listen    string   // ADDRESS:PORT
	MungeUser string   // as whom it runs
	// ServiceURL and ServiceCA (a PEM file) go together: the key service, for nodes
	// that cannot reach it themselves.
	ServiceURL, ServiceCA string
	Offline               string // directory of the authority's key; default Dir-offline
}

// Layout returns the files of a verifier.
func (o VerifierOptions) Layout() Verifier {
	dir := filepath.Clean(o.Dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	return Verifier{
		Certificates: Certificates{CA: in("verifier-ca.crt"), TLSCert: in("verifier.crt"), TLSKey: in("verifier.key"),
			CAKey: filepath.Join(cmp.Or(o.Offline, dir+"-offline"), "verifier-ca.key")},
		Config: in("verifier.conf"), SigningKey: in("verifier-signing.pem"), Nodes: in("nodes"), Enrol: in("enrol.conf"),
	}
}

// NewVerifier makes all that a verifier needs, and the lines that enrol it at
// the key service.
func NewVerifier(o VerifierOptions) (Verifier, error) {
	l := o.Layout()
	if o.Cluster == "" || len(o.Hosts) == 0 {
		return l, errors.New("verifier: no cluster, or no host name or address for its certificate")
	}
	_, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return l, fmt.Errorf("verifier: address to listen on: %w", err)
	}
	if err := noneExists(append(l.paths(), l.SigningKey, l.Config, l.Enrol, l.Nodes)...); err != nil {
		return l, err
	}
	if err := l.checkApart(); err != nil {
		return l, err
	}
	who, err := o.user()
	if err != nil {
		return l, err
	}
	files, err := l.files(o.Hosts)
	if err != nil {
		return l, fmt.Errorf("set up: %w", err)
	}
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return l, err
	}
	signing, err := keyPEM(key)
	if err != nil {
		return l, err
	}
	conf, err := l.config(o)
	if err != nil {
		return l, err
	}
	if err := errors.Join(makeDir(filepath.Dir(l.Config), 0o755), l.makeOffline()); err != nil {
		return l, err
	}
	return l, who.writeAll(append(files,
		file{l.SigningKey, signing, forService}, file{l.Config, conf, forAll},
		file{l.Enrol, l.enrolment(o, port, pub), forAll},
		file{l.Nodes, []byte("# NODE ADDRESS, one a line: the IPv4 address that MUNGE on that node gives itself\n"), forAll}))
}

// user returns as whom the verifier will run. Who is not root can only set it up
// for themselves, to be carried to where it runs.
func (o VerifierOptions) user() (serviceUser, error) {
	if os.Geteuid() != 0 {
		return serviceUser{}, nil
	}
	return lookUpUser(o.MungeUser)
}

// config renders verifier.conf; paths of files beside it are relative to it.
func (l Verifier) config(o VerifierOptions) ([]byte, error) {
	b := fmt.Appendf(nil, `# The verifier of %s. verifier.conf.example explains every key.
[verifier]
cluster = %s
listen = %s
tls-cert = %s
tls-key = %s
signing-key = %s
nodes-file = %s
munge-user = %s
`, o.Cluster, o.Cluster, o.Listen, filepath.Base(l.TLSCert), filepath.Base(l.TLSKey), filepath.Base(l.SigningKey),
		filepath.Base(l.Nodes), o.MungeUser)
	if o.ServiceURL == "" {
		return b, nil
	}
	ca, err := filepath.Abs(o.ServiceCA)
	if err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	return fmt.Appendf(b, "service-url = %s\nservice-ca = %s\n", o.ServiceURL, ca), nil
}

// enrolment renders the section of server.conf that has the key service believe
// the verifier.
func (l Verifier) enrolment(o VerifierOptions, port string, pub ed25519.PublicKey) []byte {
	return fmt.Appendf(nil, `
[cluster %s]
verifier-url = https://%s
verifier-ca = %s
verifier-key = %s
munge-user = %s
`, o.Cluster, net.JoinHostPort(o.Hosts[0], port), filepath.Base(l.CA), base64.StdEncoding.EncodeToString(pub), o.MungeUser)
}
