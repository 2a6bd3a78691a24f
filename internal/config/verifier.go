package config

import "strings"

// Verifier is what verifier.conf says to the verifier inside a cluster's MUNGE realm.
type Verifier struct {
	Path            string
	Listen          string // HOST:PORT; default 127.0.0.1:8444
	TLSCert, TLSKey string // PEM files; required
	Cluster         string // the cluster's name, as in the key service's [cluster NAME]; required
	ServiceURL      string // the key service, for nodes that cannot reach it themselves; may be empty
	ServiceCA       string // PEM file with the only authorities to trust for it
	SigningKey      string // private key that signs answers; required
	NodesFile       string // table of node names and addresses; required
	MungeUser       string // user as whom MUNGE credentials are restricted; default the process's own
	MungeSocket     string // munged's socket; "" means MUNGE's default
	SlurmConf       string // slurm.conf to pin as SLURM_CONF; default /etc/slurm/slurm.conf
	SlurmBin        string // directory of squeue; default /usr/bin
	Limits          VerifierLimits
}

// VerifierLimits is [limits] of verifier.conf. 0 stands for the verifier's default.
type VerifierLimits struct {
	FloodLimits
	RelayedRequests int // calls to the key service at once
}

// LoadVerifier reads the verifier's configuration. Errors wrap ErrConfig.
func LoadVerifier(path string) (*Verifier, error) {
	f, err := readFile(path)
	if err != nil {
		return nil, err
	}
	v := &Verifier{Path: f.path, Listen: "127.0.0.1:8444", SlurmConf: "/etc/slurm/slurm.conf", SlurmBin: "/usr/bin"}
	if err := f.apply(verifierSchema(f, v)); err != nil {
		return nil, err
	}
	if err := f.required("verifier", map[string]string{"tls-cert": v.TLSCert, "tls-key": v.TLSKey, "cluster": v.Cluster,
		"signing-key": v.SigningKey, "nodes-file": v.NodesFile}); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(v.SlurmBin, "/") {
		return nil, f.errorf("verifier", "slurm-bin", "[verifier] slurm-bin: %q is not an absolute path", v.SlurmBin)
	}
	return v, nil
}

func verifierSchema(f *file, v *Verifier) schema {
	return schema{sections: map[string][]key{"limits": append(v.Limits.keys(),
		intKey("relayed-requests", &v.Limits.RelayedRequests, 1, 1<<16)), "verifier": {
		listenKey("listen", &v.Listen), f.pathKey("tls-cert", &v.TLSCert), f.pathKey("tls-key", &v.TLSKey),
		stringKey("cluster", &v.Cluster), httpsKey("service-url", &v.ServiceURL), f.pathKey("service-ca", &v.ServiceCA),
		f.pathKey("signing-key", &v.SigningKey), f.pathKey("nodes-file", &v.NodesFile),
		stringKey("munge-user", &v.MungeUser), f.pathKey("munge-socket", &v.MungeSocket),
		f.pathKey("slurm-conf", &v.SlurmConf), stringKey("slurm-bin", &v.SlurmBin),
	}}}
}
