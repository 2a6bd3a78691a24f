package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

func write(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "x.conf")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// HPCS's README example, with its placeholders for ports filled in.
const hpcs = `[spire-server]
address = spire.lumi.csc.fi
port = 8081
trust-domain = spire-trust-domain
[hpcs-server]
url = https://hpcs-server:10080
[vault]
url = https://vault-provider:8200
[supercomputer]
address = lumi.csc.fi
username = etellier
`

func TestHPCSClientConfUnchanged(t *testing.T) {
	t.Parallel()
	c, err := LoadClient(write(t, hpcs))
	if err != nil {
		t.Fatal(err)
	}
	if c.Service.URL != "https://hpcs-server:10080" || c.Vault.URL != "https://vault-provider:8200" ||
		c.Spire != (Spire{"spire.lumi.csc.fi", "8081", "spire-trust-domain"}) ||
		c.Supercomputer.Address != "lumi.csc.fi" || c.Supercomputer.Username != "etellier" || c.Supercomputer.Port != 0 {
		t.Errorf("read %+v", c)
	}
	if !strings.HasSuffix(c.Identity.SSHKey, "/.ssh/id_ed25519") || c.Job.SealTime != 0 {
		t.Errorf("defaults: %+v %+v", c.Identity, c.Job)
	}
}

func TestClientValues(t *testing.T) {
	t.Parallel()
	p := write(t, `
[hpcs-server]
url = "https://keys:1/"
ca-cert = ca.pem
[supercomputer]
address = "login.example.org:2222"
ssh-key = ~/.ssh/a
ssh-key = keys/b
known-hosts = /etc/kh
setup =
    module purge
    # not this
    export A="x y"; module load apptainer # and this
setup = 'true'
[results]
recipients =
    ssh-ed25519 AAAA comment, with comma
    age1xyz
    who.txt
[job]
seal-time = 2m
[registry]
mirror = docker.io=https://mirror.example/hub
mirror = quay.io=https://mirror.example/quay
`)
	c, err := LoadClient(p)
	if err != nil {
		t.Fatal(err)
	}
	home, _ := os.UserHomeDir()
	dir := filepath.Dir(p)
	s := c.Supercomputer
	if s.Address != "login.example.org" || s.Port != 2222 || c.Service.URL != "https://keys:1" || c.Service.CACert != dir+"/ca.pem" {
		t.Errorf("%+v %+v", s, c.Service)
	}
	if want := []string{home + "/.ssh/a", dir + "/keys/b"}; !reflect.DeepEqual(s.SSHKeys, want) {
		t.Errorf("keys %q, want %q", s.SSHKeys, want)
	}
	if want := []string{"module purge", `export A="x y"; module load apptainer # and this`, "true"}; !reflect.DeepEqual(s.Setup, want) {
		t.Errorf("setup %q, want %q", s.Setup, want)
	}
	if want := []string{"ssh-ed25519 AAAA comment, with comma", "age1xyz", dir + "/who.txt"}; !reflect.DeepEqual(c.Results.Recipients, want) {
		t.Errorf("recipients %q, want %q", c.Results.Recipients, want)
	}
	if c.Job.SealTime != 2*time.Minute {
		t.Errorf("seal-time %v", c.Job.SealTime)
	}
	if want := []string{"docker.io=https://mirror.example/hub", "quay.io=https://mirror.example/quay"}; !slices.Equal(c.Registry.Mirrors, want) {
		t.Errorf("mirrors %q", c.Registry.Mirrors)
	}
}

func TestClientErrors(t *testing.T) {
	t.Parallel()
	const ok = "[hpcs-server]\nurl = https://k:1\n"
	for _, c := range []struct{ text, want string }{
		{"[hpcs-server]\nurl = https://k:1\nca-crt = x\n", `:3: unknown key "ca-crt" in [hpcs-server]; did you mean "ca-cert"?`},
		{ok + "[supercomputr]\naddress = x\n", `:3: unknown section [supercomputr]; did you mean [supercomputer]?`},
		{ok + "[zzz]\n", `:3: unknown section [zzz]`},
		{"url = https://k:1\n", `:1: "url" stands before the first [section]`},
		{"[hpcs-server]\nurl = http://k:1\n", `:2: [hpcs-server] url: "http://k:1" does not begin with https://`},
		{"[hpcs-server]\nurl = https://k:1\nurl = https://l:1\n", `[hpcs-server] url is given 2 times`},
		{"[vault]\nurl = https://k:1\n", `[hpcs-server] url is missing`},
		{ok + "[supercomputer]\nconnections = 9\n", `:4: [supercomputer] connections: "9" is not a whole number from 1 to 8`},
		{ok + "[supercomputer]\nport = 70000\n", `:4: [supercomputer] port: "70000" is not a whole number`},
		{ok + "[supercomputer]\nlocal = maybe\n", `neither yes nor no`},
		{ok + "[supercomputer]\naddress = -oProxyCommand=x\n", `is not a host name`},
		{ok + "[supercomputer]\naddress = me@x\n", `goes under username`},
		{ok + "[identity]\nssh-key = ~bob/x\n", `other users' home`},
		{ok + "[job]\nseal-time = soon\n", `not a length of time`},
		{ok + "nonsense\n", `is not an INI file`},
		{ok + strings.Repeat("nonsense", 100) + "\n", `is not an INI file`},
		{"\x7fELF" + strings.Repeat("\x00", 600), `is no text, but binary data`},
	} {
		_, err := LoadClient(write(t, c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\n got %v\nwant ...%s", c.text, err, c.want)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%.20q: %d bytes are said", c.text, len(err.Error()))
		}
		if !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v does not wrap ErrConfig", c.text, err)
		}
	}
}

func TestFileThatOthersCanChange(t *testing.T) {
	t.Parallel()
	p := write(t, hpcs)
	for path, mode := range map[string]os.FileMode{p: 0o664, filepath.Dir(p): 0o775} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		for name, err := range map[string]error{
			"client":   second(LoadClient(p)),
			"server":   second(LoadServer(p)),
			"verifier": second(LoadVerifier(p)),
		} {
			if !errors.Is(err, ErrConfig) || !errors.Is(err, trusted.ErrUnsafe) || fault.Hint(err) != "chmod go-w "+path {
				t.Errorf("%s, %s of mode %o: %v (%s)", name, path, mode, err, fault.Hint(err))
			}
		}
		if err := os.Chmod(path, mode&^0o022); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := LoadClient(p); err != nil {
		t.Errorf("control: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestClientSearch(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv(EnvClient, "")
	if _, err := LoadClient(""); err == nil || !strings.Contains(err.Error(), "no client configuration found") {
		t.Errorf("nothing there: %v", err)
	}
	p := filepath.Join(dir, "sealbatch", "client.conf")
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(hpcs), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := LoadClient(""); err != nil || c.Path != p {
		t.Errorf("got %+v, %v", c, err)
	}
	other := write(t, hpcs)
	t.Setenv(EnvClient, other)
	if c, err := LoadClient(""); err != nil || c.Path != other {
		t.Errorf("with %s: %+v, %v", EnvClient, c, err)
	}
}

func TestServer(t *testing.T) {
	t.Parallel()
	text := `[server]
name = keys
data-dir = /var/lib/sb
master-key-file = /etc/sb/master
allowed-signers = accounts
[limits]
min-tier = B2
manifests-per-account = 7
burst = 9
[attestor made-up]
Trust = x

[key-store]
Type = made-up
Address = https://store:1
[cluster "b"]
verifier-key = b.pub
verifier-url = https://w:1
verifier-ca = /ca.pem
munge-user = slurm
tier = C
[cluster a]
verifier-key = MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqo=
verifier-url = https://v:1
verifier-ca = ca.pem
munge-user = sb
`
	p := write(t, text)
	s, err := LoadServer(p)
	if err != nil {
		t.Fatal(err)
	}
	want := &Server{Path: p, Name: "keys", Listen: "127.0.0.1:8443", DataDir: "/var/lib/sb", TLSCert: "/var/lib/sb/tls.crt",
		TLSKey: "/var/lib/sb/tls.key", Audit: "/var/lib/sb/audit.log", MasterKeyFile: "/etc/sb/master",
		AllowedSigners: filepath.Join(filepath.Dir(p), "accounts"), MinTier: "B2",
		Limits:    ServerLimits{ManifestsPerAccount: 7, FloodLimits: FloodLimits{Burst: 9}},
		KeyStore:  KeyStoreConf{Type: "made-up", Parameters: map[string]string{"address": "https://store:1"}},
		Attestors: map[string]map[string]string{"made-up": {"trust": "x"}},
		Clusters: []ClusterConf{{Name: "a", VerifierURL: "https://v:1",
			VerifierCA: filepath.Join(filepath.Dir(p), "ca.pem"), MungeUser: "sb", Tier: "B2",
			VerifierKey: "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqo="},
			{Name: "b", VerifierURL: "https://w:1", VerifierCA: "/ca.pem", MungeUser: "slurm", Tier: "C",
				VerifierKey: filepath.Join(filepath.Dir(p), "b.pub")}}}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	for old, c := range map[string]struct{ new, want string }{
		"/etc/sb/master":               {"/var/lib/sb/k", "lies inside data-dir"},
		"name = keys\n":                {"", "[server] name missing"},
		"min-tier = B2":                {"min-tier = D", "none of A, B1, B2, C"},
		"verifier-key = b.pub\n":       {"", "[cluster b] verifier-key missing"},
		"[cluster a]":                  {"[cluster]", "needs a name"},
		"allowed-signers = accounts\n": {"tls-key = x\nallowed-signers = accounts\n", "go together"},
		"Address = ":                   {"address = a\nAddress = ", "given twice"},
		"verifier-key = b.pub":         {"verifer-key = b.pub", `did you mean "verifier-key"?`},
	} {
		bad := strings.Replace(text, old, c.new, 1)
		if _, err := LoadServer(write(t, bad)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want ...%s", c.new, err, c.want)
		}
	}
}

func TestVerifierMissing(t *testing.T) {
	t.Parallel()
	_, err := LoadVerifier(write(t, "[verifier]\ncluster = x\ntls-cert = c\ntls-key = k\n"))
	if err == nil || !strings.Contains(err.Error(), "[verifier] nodes-file, signing-key missing") {
		t.Errorf("got %v", err)
	}
}

func TestServerDefaults(t *testing.T) {
	t.Parallel()
	s, err := LoadServer(write(t, "[server]\nname = k\ndata-dir = /d\nmaster-key-file = /m\nallowed-signers = /a\n"))
	if err != nil || s.MinTier != "B2" || s.Listen != "127.0.0.1:8443" || s.Audit != "/d/audit.log" {
		t.Errorf("%+v, %v", s, err)
	}
}
