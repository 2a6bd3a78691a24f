package config

import (
	"path/filepath"
	"sort"
	"strings"
)

// Server is what server.conf says to the key service.
type Server struct {
	Path            string
	Name            string // service id, bound into every signature and credential; required
	Listen          string // HOST:PORT; default 127.0.0.1:8443
	TLSCert, TLSKey string // PEM files; default tls.crt and tls.key in DataDir
	DataDir         string // store, audit log, TLS and signing keys; required
	MasterKeyFile   string // the key that seals the store's values, outside DataDir; required
	AllowedSigners  string // the accounts, in OpenSSH's allowed_signers format; required
	Audit           string // audit log; default audit.log in DataDir
	Group           int    // a group with none but the service's user in it, by number; 0 is none
	MinTier         string // lowest assurance tier at which anything is released: A, B1, B2 or C; default B2
	Limits          ServerLimits
	Clusters        []ClusterConf
	KeyStore        KeyStoreConf
	// Attestors is [attestor TYPE]: what a type of evidence is configured by, its
	// keys in lower case; what they mean is the type's matter.
	Attestors map[string]map[string]string
}

// FloodLimits are what [limits] of both services bounds: what they take on from
// everybody and from one address. 0 stands for the service's default.
type FloodLimits struct {
	RatePerSecond      int // requests a second of one address, in the long run
	Burst              int // requests of one address at first
	Connections        int // open at once
	BodyMemory         int // bytes of request bodies that are held at once
	ConcurrentRequests int // requests at work at once
}

// ServerLimits is [limits] of server.conf, except for min-tier. 0 stands for the
// service's default.
type ServerLimits struct {
	FloodLimits
	MaxRequestBytes int
	AuditSegment    int // bytes after which the audit log goes on in a new segment
	// Volumes, registered jobs, tokens and deleted volumes that the store holds of one account.
	SecretsPerAccount, ManifestsPerAccount, TokensPerAccount, DeletionsPerAccount int
	ReleasesPerAccount, JobBytesPerAccount                                        int // released keys; bytes of registered jobs
}

// KeyStoreConf is [key-store]: where the volumes' keys are kept.
type KeyStoreConf struct {
	Type       string            // default slots: a file that is overwritten in place
	Parameters map[string]string // the section's other keys, in lower case; what they mean is the type's matter
}

// ClusterConf is [cluster NAME]: a Slurm cluster whose verifier the service believes.
type ClusterConf struct {
	Name        string
	VerifierURL string // https address at which the cluster's nodes reach the verifier; required
	VerifierCA  string // PEM file with the authorities that nodes trust for it; required
	VerifierKey string // its public key: base64 of an Ed25519 key, or an absolute path of a PEM file; required
	MungeUser   string // the Unix user to whom nodes restrict their MUNGE credentials; required
	Tier        string // what the verifier's word is worth: B2, or C for one run by a submitter; default B2
}

// LoadServer reads the key service's configuration. Errors wrap ErrConfig.
func LoadServer(path string) (*Server, error) {
	f, err := readFile(path)
	if err != nil {
		return nil, err
	}
	s := &Server{Path: f.path, Listen: "127.0.0.1:8443", MinTier: "B2",
		Attestors: map[string]map[string]string{}, KeyStore: KeyStoreConf{Type: "slots", Parameters: map[string]string{}}}
	clusters := map[string]*ClusterConf{}
	if err := f.apply(serverSchema(f, s, clusters)); err != nil {
		return nil, err
	}
	for _, c := range clusters {
		if err := f.required("cluster "+c.Name, map[string]string{"verifier-url": c.VerifierURL, "verifier-ca": c.VerifierCA,
			"verifier-key": c.VerifierKey, "munge-user": c.MungeUser}); err != nil {
			return nil, err
		}
		s.Clusters = append(s.Clusters, *c)
	}
	sort.Slice(s.Clusters, func(i, j int) bool { return s.Clusters[i].Name < s.Clusters[j].Name })
	if err := f.required("server", map[string]string{"name": s.Name, "data-dir": s.DataDir,
		"master-key-file": s.MasterKeyFile, "allowed-signers": s.AllowedSigners}); err != nil {
		return nil, err
	}
	return s, s.finish(f)
}

func serverSchema(f *file, s *Server, clusters map[string]*ClusterConf) schema {
	return schema{
		sections: map[string][]key{
			"server": {
				stringKey("name", &s.Name), listenKey("listen", &s.Listen),
				f.pathKey("tls-cert", &s.TLSCert), f.pathKey("tls-key", &s.TLSKey), f.pathKey("data-dir", &s.DataDir),
				f.pathKey("master-key-file", &s.MasterKeyFile), f.pathKey("allowed-signers", &s.AllowedSigners),
				f.pathKey("audit", &s.Audit), intKey("group", &s.Group, 1, 1<<32-2),
			},
			"limits": append(s.Limits.keys(),
				oneOfKey("min-tier", &s.MinTier, "A", "B1", "B2", "C"),
				intKey("max-request-bytes", &s.Limits.MaxRequestBytes, 1<<10, 1<<28),
				intKey("audit-segment-bytes", &s.Limits.AuditSegment, 1<<20, 1<<40),
				intKey("secrets-per-account", &s.Limits.SecretsPerAccount, 1, 1<<30),
				intKey("manifests-per-account", &s.Limits.ManifestsPerAccount, 1, 1<<30),
				intKey("tokens-per-account", &s.Limits.TokensPerAccount, 1, 1<<30),
				intKey("deletions-per-account", &s.Limits.DeletionsPerAccount, 1, 1<<30),
				intKey("releases-per-account", &s.Limits.ReleasesPerAccount, 1, 1<<30),
				intKey("job-bytes-per-account", &s.Limits.JobBytesPerAccount, 1<<20, 1<<40),
			),
			"key-store": {stringKey("type", &s.KeyStore.Type)},
		},
		others: map[string]map[string]string{"key-store": s.KeyStore.Parameters},
		othersOf: map[string]func(string) map[string]string{"attestor": func(name string) map[string]string {
			if s.Attestors[name] == nil {
				s.Attestors[name] = map[string]string{}
			}
			return s.Attestors[name]
		}},
		named: map[string]func(string) []key{"cluster": func(name string) []key {
			c, ok := clusters[name]
			if !ok {
				c = &ClusterConf{Name: name, Tier: "B2"}
				clusters[name] = c
			}
			return []key{httpsKey("verifier-url", &c.VerifierURL), f.pathKey("verifier-ca", &c.VerifierCA),
				f.keyKey("verifier-key", &c.VerifierKey), stringKey("munge-user", &c.MungeUser), oneOfKey("tier", &c.Tier, "B2", "C")}
		}},
	}
}

func (l *FloodLimits) keys() []key {
	return []key{
		intKey("rate-per-second", &l.RatePerSecond, 1, 1<<20),
		intKey("burst", &l.Burst, 1, 1<<20),
		intKey("connections", &l.Connections, 2, 1<<20),
		intKey("body-memory-bytes", &l.BodyMemory, 1<<20, 1<<40),
		intKey("concurrent-requests", &l.ConcurrentRequests, 1, 1<<16),
	}
}

// keyKey takes an Ed25519 public key in place (base64) or the path of a PEM file with one.
func (f *file) keyKey(name string, dst *string) key {
	path := f.pathKey(name, dst)
	return key{name: name, set: func(v []string) error {
		if len(v[0]) == 44 && v[0][43] == '=' {
			*dst = v[0]
			return nil
		}
		return path.set(v)
	}}
}

func (s *Server) finish(f *file) error {
	if rel, err := filepath.Rel(s.DataDir, s.MasterKeyFile); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return f.errorf("server", "master-key-file",
			"[server] master-key-file lies inside data-dir: a copy of the store would carry its key along")
	}
	if (s.TLSCert == "") != (s.TLSKey == "") {
		return f.errorf("server", "tls-cert", "[server] tls-cert and tls-key go together")
	}
	setDefault(&s.TLSCert, filepath.Join(s.DataDir, "tls.crt"))
	setDefault(&s.TLSKey, filepath.Join(s.DataDir, "tls.key"))
	setDefault(&s.Audit, filepath.Join(s.DataDir, "audit.log"))
	return nil
}

func setDefault(dst *string, value string) {
	if *dst == "" {
		*dst = value
	}
}

// required names all keys of a section that are missing at once.
func (f *file) required(section string, values map[string]string) error {
	var missing []string
	for name, v := range values {
		if v == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	sort.Strings(missing)
	return f.errorf(section, "", "[%s] %s missing", section, strings.Join(missing, ", "))
}
