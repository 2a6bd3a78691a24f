package config

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// Client is what client.conf says. HPCS's client.conf is one, unchanged.
type Client struct {
	Path          string // absolute path of the file it came from
	Service       Service
	Spire         Spire
	Vault         Vault
	Supercomputer Supercomputer
	Identity      Identity
	Results       Results
	Trust         Trust
	Job           Job
	Policy        Policy
	Registry      Registry
	// Warnings are sentences about what the file says and nobody here knows.
	Warnings []string
}

// Service is [hpcs-server]: the key service.
type Service struct {
	URL    string // https://host:port, without a trailing slash; required
	CACert string // PEM file with the only authorities to trust; "" means this machine's
}

// Spire is [spire-server], HPCS's section for the site's SPIRE server. Kept as written.
type Spire struct{ Address, Port, TrustDomain string }

// Vault is [vault], HPCS's section for the site's Vault. Kept as written.
type Vault struct{ URL string }

// Supercomputer is [supercomputer]: the login node and how to reach it.
type Supercomputer struct {
	Address    string   // host or ssh_config alias, without the port
	Port       int      // 0 means ssh_config's, or 22
	Username   string   // "" means ssh_config's, or the local user's name
	Local      bool     // sealbatch runs on the login node itself: no SSH, whatever the address is
	SSHKeys    []string // private key files to try first
	KnownHosts []string // known_hosts files instead of ssh_config's
	SSHConfig  string   // ssh_config file; "" means ~/.ssh/config, "none" means none
	ProxyJump  string   // as in ssh_config; "" means ssh_config's
	// Connections is how many SSH connections a large upload may use at once; 0 means 4.
	Connections int
	Cluster     string   // the cluster's name at the key service; "" if that knows only one
	Runtime     string   // apptainer, singularity or a path; "" means the first found on the node
	Mounts      string   // how nodes mount: auto, namespace, fusermount, runtime; "" is auto
	SlurmBin    string   // directory of sbatch and its like on the login node; "" means PATH
	Setup       []string // shell lines of the site's own, run in the job before anything else
}

// Identity is [identity]: the account key that signs requests and info files.
type Identity struct {
	SSHKey string // private key file, or .pub file of a key that the agent holds
}

// Results is [results]: who can open what jobs write.
type Results struct {
	Recipients []string // age1..., ssh-ed25519 ..., or absolute paths of files of them; empty means the account key
	Identities []string // age identities or SSH private keys, one of which opens them; empty means the account key
}

// Trust is [trust]: whose info files and manifests count.
type Trust struct {
	AllowedSigners string // file in OpenSSH's allowed_signers format; "" means only one's own key
}

// Job is [job]: defaults for job-prep's flags, which override them.
type Job struct {
	Partition, Account, Time, Workdir string
	SealTime                          time.Duration // time kept at the end of a job for sealing results; 0 if it is not said
}

// Policy is [policy]: what is demanded of jobs where a flag does not say otherwise.
type Policy struct {
	Network string // "none", or "any" or "" for no demand
}

// Registry is [registry]: how container images are fetched.
type Registry struct {
	Mirrors []string // REGISTRY=MIRROR, as in docker.io=https://mirror.example/hub; asked in this order
}

// EnvClient names the environment variable that names the client configuration.
const EnvClient = "SEALBATCH_CONFIG"

// LoadClient reads the client configuration at path. An empty path means $SEALBATCH_CONFIG, else
// sealbatch/client.conf in the user's configuration directory (~/.config), else
// /etc/sealbatch/client.conf, else HPCS's /tmp/hpcs-client.conf. Whoever writes this file decides
// whom the user trusts: what belongs to anybody else, or others can write, is refused
// (internal/trusted), and the working directory is never searched. Errors wrap ErrConfig.
func LoadClient(path string) (*Client, error) {
	if path == "" {
		var err error
		if path, err = findClient(); err != nil {
			return nil, err
		}
	}
	f, err := readFile(path)
	if err != nil {
		if errors.Is(err, trusted.ErrUnsafe) && path == userdirs.HPCSConfig && !userdirs.Container() {
			err = fault.WithHint(err, "another user may have put it there: write your own as ~/.config/sealbatch/client.conf, "+
				"or name it with --config")
		}
		return nil, err
	}
	c := defaultClient(f.path)
	if err := f.apply(clientSchema(f, c)); err != nil {
		return nil, err
	}
	c.Warnings = f.warnings
	return c, c.check(f)
}

func findClient() (string, error) {
	if p := os.Getenv(EnvClient); p != "" {
		return p, nil
	}
	candidates := userdirs.ClientConfigs()
	for _, p := range candidates {
		if _, err := os.Stat(p); !errors.Is(err, os.ErrNotExist) {
			return p, nil
		}
	}
	return "", fail(Error{File: candidates[0], What: "no client configuration found",
		Next: "write it after the model of client.conf.example, or name one with --config"})
}

func defaultClient(path string) *Client {
	return &Client{Path: path, Identity: Identity{SSHKey: userdirs.Key()}}
}

func clientSchema(f *file, c *Client) schema {
	s := &c.Supercomputer
	return schema{hpcs: true, sections: map[string][]key{
		"hpcs-server": {httpsKey("url", &c.Service.URL), narrows(f.pathKey("ca-cert", &c.Service.CACert))},
		"spire-server": {stringKey("address", &c.Spire.Address), stringKey("port", &c.Spire.Port),
			stringKey("trust-domain", &c.Spire.TrustDomain)},
		"vault": {stringKey("url", &c.Vault.URL)},
		"supercomputer": {
			addressKey("address", s), wordKey("username", &s.Username), intKey("port", &s.Port, 1, 65535),
			boolKey("local", &s.Local), f.pathsKey("ssh-key", &s.SSHKeys), narrows(f.pathsKey("known-hosts", &s.KnownHosts)),
			f.pathOrKey("ssh-config", &s.SSHConfig, "none"), stringKey("proxy-jump", &s.ProxyJump),
			stringKey("cluster", &s.Cluster), stringKey("runtime", &s.Runtime),
			intKey("connections", &s.Connections, 1, 8), stringKey("mounts", &s.Mounts), stringKey("slurm-bin", &s.SlurmBin),
			linesKey("setup", &s.Setup),
		},
		"identity": {f.pathKey("ssh-key", &c.Identity.SSHKey)},
		"results":  {f.recipientsKey("recipients", &c.Results.Recipients), f.pathsKey("identity", &c.Results.Identities)},
		"trust":    {narrows(f.pathKey("allowed-signers", &c.Trust.AllowedSigners))},
		"job": {stringKey("partition", &c.Job.Partition), stringKey("account", &c.Job.Account),
			stringKey("time", &c.Job.Time), stringKey("workdir", &c.Job.Workdir), secondsKey("seal-time", &c.Job.SealTime)},
		"policy":   {narrows(oneOfKey("network", &c.Policy.Network, "any", "none"))},
		"registry": {linesKey("mirror", &c.Registry.Mirrors)},
	}}
}

// narrows makes k a key that says whom alone to believe, or what not to permit.
func narrows(k key) key {
	k.narrows = true
	return k
}

// addressKey takes HOST, HOST:PORT, [IPv6]:PORT or IPv6.
func addressKey(name string, s *Supercomputer) key {
	return key{name: name, set: func(v []string) error {
		if err := oneWord(v[0]); err != nil {
			return err
		}
		host, port, err := net.SplitHostPort(v[0])
		if err != nil || net.ParseIP(v[0]) != nil {
			s.Address = strings.Trim(v[0], "[]")
			return nil
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || host == "" {
			return errors.New("should be HOST or HOST:PORT")
		}
		s.Address = host
		if s.Port == 0 {
			s.Port = int(n)
		}
		return nil
	}}
}

func (f *file) pathOrKey(name string, dst *string, word string) key {
	path := f.pathKey(name, dst)
	return key{name: name, set: func(v []string) error {
		if v[0] == word {
			*dst = word
			return nil
		}
		return path.set(v)
	}}
}

// recipientsKey keeps public keys as they are and takes anything else for a file of them.
func (f *file) recipientsKey(name string, dst *[]string) key {
	return key{name: name, repeated: true, set: func(v []string) error {
		*dst = nil
		for _, r := range v {
			if !strings.HasPrefix(r, "age1") && !strings.HasPrefix(r, "ssh-") {
				abs, err := f.resolve(r)
				if err != nil {
					return err
				}
				r = abs
			}
			*dst = append(*dst, r)
		}
		return nil
	}}
}

func (c *Client) check(f *file) error {
	s := &c.Supercomputer
	switch {
	case c.Service.URL == "":
		return fail(Error{File: f.path, What: "[hpcs-server] url is missing", Next: "add the key service's address: url = https://HOST:PORT"})
	case strings.HasPrefix(s.Address, "-") || strings.ContainsAny(s.Address, " \t@/"):
		return f.errorf("supercomputer", "address",
			"[supercomputer] address: %q is not a host name; the user's name goes under username", s.Address)
	case s.SlurmBin != "" && !strings.HasPrefix(s.SlurmBin, "/"):
		return f.errorf("supercomputer", "slurm-bin", "[supercomputer] slurm-bin: %q is not an absolute path", s.SlurmBin)
	case c.Job.Workdir != "" && !strings.HasPrefix(c.Job.Workdir, "/"):
		return f.errorf("job", "workdir", "[job] workdir: %q is not an absolute path at the site", c.Job.Workdir)
	}
	return nil
}
