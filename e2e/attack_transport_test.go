package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
)

// listens waits until something on a host takes connections.
func listens(t *testing.T, host string, port int) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("%s answers on port %d", host, port), func() bool {
		return run(t.Context(), "laptop", "root", nil, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", host, port)).code == 0
	})
}

// TestAttackSSHMiddle: somebody between laptop and login node answers in its
// place. That alice may log in there, too, plays that the attacker takes anybody.
func TestAttackSSHMiddle(t *testing.T) {
	t.Parallel()
	trusting := weakness{"internal/transfer/hostkeys.go",
		`case slices.ContainsFunc(own, func(k knownKey) bool { return k.has(key) }):`, "case true:"}
	weakest := weakness{"internal/transfer/dial.go", "HostKeyAlgorithms: keys.algorithms(),",
		`HostKeyAlgorithms: append(ssh.InsecureAlgorithms().HostKeys, keys.algorithms()...),
		Config: ssh.Config{KeyExchanges: ssh.InsecureAlgorithms().KeyExchanges, Ciphers: ssh.InsecureAlgorithms().Ciphers},`}
	write(t, "laptop", "alice", "data/middle/run.sh", "exit 0\n")
	programs := map[string]string{}
	for name, c := range map[string]struct {
		port int
		key  string // of the host, "" for login's own RSA key
		conf string // sshd's
		want string
		weak weakness
	}{
		"another key":                        {2301, "ed25519", "", "someone may be in between", trusting},
		"a key of a type that login has not": {2302, "rsa", "", "someone may be in between", trusting},
		"only algorithms that are broken": {2303, "",
			"HostKeyAlgorithms ssh-rsa\nKexAlgorithms diffie-hellman-group1-sha1\nCiphers 3des-cbc\n", "no common algorithm", weakest},
	} {
		t.Run(name, func(t *testing.T) {
			dir := fmt.Sprintf("/root/middle-%d", c.port)
			key := "/etc/ssh/ssh_host_rsa_key"
			must(t, "login", "root", "mkdir", "-p", dir)
			if c.key != "" {
				key = dir + "/key"
				must(t, "login", "root", "ssh-keygen", "-q", "-t", c.key, "-N", "", "-f", key)
			}
			known := must(t, "laptop", "alice", "cat", ".ssh/known_hosts")
			if c.key == "rsa" { // then the attacker has a type that nothing is known of
				known = linesWithout(known, "ssh-rsa")
			}
			write(t, "login", "root", dir+"/sshd_config",
				fmt.Sprintf("Port %d\nHostKey %s\nPidFile none\nUsePAM yes\nSubsystem sftp internal-sftp\n%s", c.port, key, c.conf))
			background(t, "login", "root", "/usr/sbin/sshd", "-D", "-e", "-f", dir+"/sshd_config")
			listens(t, "login", c.port)
			// The alias plays a name that leads to the attacker.
			write(t, "laptop", "alice", fmt.Sprintf("middle/%d.ssh", c.port),
				fmt.Sprintf("Host login\nPort %d\nHostKeyAlias login\nUserKnownHostsFile ~/middle/%d.known\n", c.port, c.port))
			write(t, "laptop", "alice", fmt.Sprintf("middle/%d.known", c.port), known+"\n")
			write(t, "laptop", "alice", fmt.Sprintf("middle/%d.conf", c.port),
				must(t, "laptop", "alice", "sed", fmt.Sprintf(`s,^username,ssh-config = ~/middle/%d.ssh\n&,`, c.port),
					".config/sealbatch/client.conf")+"\n")
			prep := func(program, name string) result {
				return run(t.Context(), "laptop", "alice", nil, program, "data-prep", "--config",
					fmt.Sprintf("middle/%d.conf", c.port), "-i", "data/middle",
					"--data-path", fmt.Sprintf("data/%s-%d.sealed", name, c.port), "--data-path-at-rest", alice.scratch(), "-u", "alice", "-c", "*")
			}
			if r := prep("sealbatch", "middle"); r.code != 4 || !strings.Contains(r.err, c.want) {
				t.Errorf("%s", r)
			}
			if programs[c.weak.file] == "" {
				programs[c.weak.file] = installed(t, "laptop", weakened(t, c.weak)) + "/sealbatch"
			}
			if r := prep(programs[c.weak.file], "control"); r.code != 0 {
				t.Errorf("without the defence the attack fails, too: %s", r)
			}
		})
	}
}

func linesWithout(text, part string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, part) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// TestAttackTLSMiddle: somebody between laptop and key service answers in its
// place, with a key service of their own: what is deposited there, is theirs.
func TestAttackTLSMiddle(t *testing.T) {
	t.Parallel()
	const port = 9643
	must(t, "keys", "root", "sealbatch", "serve", "--init", "/etc/attacker", "--host", "keys", "--listen", fmt.Sprintf("0.0.0.0:%d", port))
	must(t, "keys", "root", "cp", "/etc/sealbatch/accounts", "/etc/attacker/accounts")
	must(t, "keys", "root", "cp", "-a", "/etc/attacker", "/etc/attacker-other-name")
	must(t, "keys", "root", "sed", "-i",
		fmt.Sprintf("s,/etc/attacker/,/etc/attacker-other-name/,; s,:%d,:%d,", port, port+1), "/etc/attacker-other-name/server.conf")
	otherName(t, "/etc/attacker-other-name")
	background(t, "keys", "root", "sealbatch", "serve", "--config", "/etc/attacker/server.conf")
	background(t, "keys", "root", "sealbatch", "serve", "--config", "/etc/attacker-other-name/server.conf")
	write(t, "laptop", "alice", "data/tls-middle/run.sh", "exit 0\n")
	const tlsLine = "TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}"
	believing := installed(t, "laptop",
		weakened(t, weakness{"internal/keyclient/client.go", tlsLine,
			"TLSClientConfig:     &tls.Config{RootCAs: pool, InsecureSkipVerify: true}"})) + "/sealbatch"
	for i, c := range []struct{ name, dir, want string }{
		{"an authority of their own", "/etc/attacker", "unknown authority"},
		{"a certificate for another name", "/etc/attacker-other-name", "not keys"},
	} {
		t.Run(c.name, func(t *testing.T) {
			listens(t, "keys", port+i)
			conf := fmt.Sprintf("middle/tls-%d.conf", i)
			write(t, "laptop", "alice", conf,
				must(t, "laptop", "alice", "sed", fmt.Sprintf("s,:8443,:%d,", port+i), ".config/sealbatch/client.conf")+"\n")
			prep := func(program, name string) result {
				return run(t.Context(), "laptop", "alice", nil, program, "data-prep", "--config", conf, "-i", "data/tls-middle",
					"--data-path", fmt.Sprintf("data/%s-%d.sealed", name, i), "--data-path-at-rest", alice.scratch(), "-u", "alice", "-c", "*",
					"--clusters", "testcluster")
			}
			deposited := func() string {
				return must(t, "keys", "root", "sh", "-c", `grep -c '"secret.put"' "$1/data/audit.log" || true`, "sh", c.dir)
			}
			if r := prep("sealbatch", "tls"); r.code == 0 || !strings.Contains(r.err, c.want) || deposited() > "0" {
				t.Errorf("%s deposited: %s", r, deposited())
			}
			if r := prep(believing, "tls-control"); r.code != 0 || deposited() == "0" {
				t.Errorf("without the defence the attack fails, too: %s deposited: %s", r, deposited())
			}
		})
	}
}

// otherName gives a service a certificate of the true authority that is for
// another host.
func otherName(t *testing.T, dir string) {
	t.Helper()
	block, _ := pem.Decode([]byte(must(t, "keys", "root", "cat", "/etc/sealbatch/ca.crt")))
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode([]byte(must(t, "keys", "root", "cat", "/etc/sealbatch-offline/ca.key")))
	caKey, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "other"}, DNSNames: []string{"other"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, "keys", "root", dir+"/tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, "keys", "root", dir+"/tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}

// TestAttackRelay: who passes answers on between key service and node, as a
// verifier does, can neither read them nor give one node's to another.
func TestAttackRelay(t *testing.T) {
	t.Parallel()
	_, first := registered(t)
	_, second := registered(t)
	a := newClaimant(t, aliceOnCN1, first, running(t, alice, "-w", "cn1"), "cn1")
	b := newClaimant(t, aliceOnCN1, second, running(t, alice, "-w", "cn1"), "cn1")
	a.via, b.via = loginVerifier, loginVerifier
	toA, toB := a.release(t, a.honestVoucher(t)), b.release(t, b.honestVoucher(t))
	a.gets(t, toA)
	b.gets(t, toB)
	var forA, forB keyapi.Released
	toA.into(t, &forA)
	toB.into(t, &forB)
	for name, c := range map[string]struct {
		who    *claimant
		claim  keyapi.Claim
		sealed []byte
	}{
		"another node's answer":                  {a, a.claim, forB.Sealed},
		"another node's answer with its claim":   {a, b.claim, forB.Sealed},
		"the right answer for another claim":     {a, b.claim, forA.Sealed},
		"the right answer, altered by one bit":   {a, a.claim, flipped(forA.Sealed)},
		"read by who relays it, without a key E": {b, a.claim, forA.Sealed},
	} {
		if _, err := keyapi.OpenBundle(c.who.e, c.who.service.ID, c.claim, c.sealed); err == nil {
			t.Errorf("%s opens", name)
		}
	}
}

func flipped(b []byte) []byte {
	out := append([]byte(nil), b...)
	out[len(out)-1] ^= 1
	return out
}
