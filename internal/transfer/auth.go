package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/sshkey"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// Prompt is a question for the person at the terminal.
type Prompt struct {
	Target   string // user@host, or the key file
	Question string // as the server or ssh asks it
	Echo     bool   // whether the answer may be seen
}

// promptTries is how often a password or a code may be mistyped.
const promptTries = 3

// maxKeyFile bounds an SSH key file, in bytes.
const maxKeyFile = 1 << 20

// credentials finds the ways to log in to one target.
type credentials struct {
	ctx    context.Context
	target *target
	prompt func(context.Context, Prompt) (string, error)
	mu     sync.Mutex // for agent
	agent  net.Conn
	tried  []string // for the error message
	passed []string // keys that were passed over, and why

	unlocked map[string]ssh.Signer // by file, those that had to be unlocked beforehand; nil if that failed
}

func (c *credentials) methods() []ssh.AuthMethod {
	methods := []ssh.AuthMethod{ssh.PublicKeysCallback(c.signers)}
	if c.prompt != nil {
		methods = append(methods,
			ssh.RetryableAuthMethod(ssh.KeyboardInteractive(c.challenge), promptTries),
			ssh.RetryableAuthMethod(ssh.PasswordCallback(c.password), promptTries))
	}
	return methods
}

func (c *credentials) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agent != nil {
		_ = c.agent.Close()
	}
}

// signers returns the keys in the order in which they are offered: certificates and keys from files
// first (by way of the agent, if it has them), then the agent's others. Servers count attempts.
func (c *credentials) signers() ([]ssh.Signer, error) {
	c.tried, c.passed = nil, nil
	held := c.agentSigners()
	certs := c.certificates()
	var out []ssh.Signer
	used := map[string]bool{}
	for _, path := range c.target.keys {
		s := c.fileSigner(path, held)
		if s == nil {
			continue
		}
		for _, cert := range certs {
			if bytes.Equal(cert.Key.Marshal(), s.PublicKey().Marshal()) {
				if cs, err := ssh.NewCertSigner(cert, s); err == nil {
					out = append(out, cs)
				}
			}
		}
		out = append(out, s)
		used[string(s.PublicKey().Marshal())] = true
		c.tried = append(c.tried, path)
	}
	for _, s := range held {
		if !c.target.identitiesOnly && !used[string(s.PublicKey().Marshal())] {
			out = append(out, s)
			c.tried = append(c.tried, "agent "+ssh.FingerprintSHA256(s.PublicKey()))
		}
	}
	return out, nil
}

func (c *credentials) agentSigners() []ssh.Signer {
	if c.target.agentSocket == "" {
		return nil
	}
	conn := c.agentConn()
	if conn == nil {
		return nil
	}
	_ = conn.SetReadDeadline(time.Now().Add(agentTime))
	held, err := agent.NewClient(conn).Signers()
	if err != nil {
		c.passed = append(c.passed, "the SSH agent ("+c.target.agentSocket+" does not answer)")
		return nil
	}
	_ = conn.SetReadDeadline(time.Time{}) // somebody may have to touch a key before it signs
	return held
}

// agentTime is how long an SSH agent may take to list its keys.
const agentTime = 10 * time.Second

// agentConn returns the connection to the agent. As for ssh, an agent that is gone is no agent.
func (c *credentials) agentConn() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agent == nil {
		conn, err := (&net.Dialer{}).DialContext(c.ctx, "unix", c.target.agentSocket)
		if err != nil {
			return nil
		}
		c.agent = conn
	}
	return c.agent
}

// certificates reads the OpenSSH user certificates that belong to the key files.
func (c *credentials) certificates() []*ssh.Certificate {
	var out []*ssh.Certificate
	files := append([]string(nil), c.target.certs...)
	for _, k := range c.target.keys {
		files = append(files, strings.TrimSuffix(k, ".pub")+"-cert.pub")
	}
	for _, f := range files {
		if key, err := readPublicKey(f); err == nil {
			if cert, ok := key.(*ssh.Certificate); ok {
				out = append(out, cert)
			}
		}
	}
	return out
}

// fileSigner returns the signer of a key file; nil if there is none or it cannot be used.
func (c *credentials) fileSigner(path string, held []ssh.Signer) ssh.Signer {
	public, publicErr := readPublicKey(strings.TrimSuffix(path, ".pub") + ".pub")
	if publicErr == nil {
		for _, s := range held {
			if bytes.Equal(s.PublicKey().Marshal(), public.Marshal()) {
				return s
			}
		}
	}
	data, err := readPrivateKey(path)
	if errors.Is(err, trusted.ErrUnsafe) {
		c.passed = append(c.passed, fmt.Sprintf("%v (%s)", err, fault.Hint(err)))
	}
	if errors.Is(err, fs.ErrPermission) {
		c.passed = append(c.passed, fmt.Sprintf("%s (permission denied; %s)", path, userdirs.OwnerHint(path)))
	}
	if err != nil {
		return nil
	}
	signer, err := sshkey.Signer(data, nil)
	var missing *ssh.PassphraseMissingError
	switch {
	case err == nil:
		for _, s := range held {
			if bytes.Equal(s.PublicKey().Marshal(), signer.PublicKey().Marshal()) {
				return s
			}
		}
		return signer
	case errors.Is(err, sshkey.ErrHandle):
		c.passed = append(c.passed, fmt.Sprintf("%s (%v)", path, err))
		return nil
	case !errors.As(err, &missing):
		c.passed = append(c.passed, path+" (not a private key that can be read)")
		return nil
	case c.prompt == nil:
		c.passed = append(c.passed, path+" (has a passphrase; add it to the agent with ssh-add)")
		return nil
	}
	if missing.PublicKey != nil {
		public = missing.PublicKey
	} else if publicErr != nil {
		return c.unlockNow(path, data)
	}
	return &lockedSigner{public: public, unlock: func() (ssh.Signer, error) { return c.unlock(path, data) }}
}

// unlockNow opens a key whose public half is not known, before the server has said whether it takes it, as ssh
// does; once. It returns nil if it cannot.
func (c *credentials) unlockNow(path string, data []byte) ssh.Signer {
	if s, ok := c.unlocked[path]; ok {
		return s
	}
	s, err := c.unlock(path, data)
	if err != nil {
		c.passed = append(c.passed, err.Error())
		s = nil
	}
	if c.unlocked == nil {
		c.unlocked = map[string]ssh.Signer{}
	}
	c.unlocked[path] = s
	return s
}

// unlock asks for a key file's passphrase.
func (c *credentials) unlock(path string, data []byte) (ssh.Signer, error) {
	for range promptTries {
		phrase, err := c.prompt(c.ctx, Prompt{Target: path, Question: fmt.Sprintf("Passphrase for %s: ", path)})
		if err != nil {
			return nil, err
		}
		signer, err := sshkey.Signer(data, []byte(phrase))
		if err == nil {
			return signer, nil
		}
		if !errors.Is(err, sshkey.ErrPassphrase) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil, fmt.Errorf("%s: wrong passphrase", path)
}

func (c *credentials) challenge(_, instruction string, questions []string, echos []bool) ([]string, error) {
	answers := make([]string, len(questions))
	for i, q := range questions {
		if instruction != "" {
			q = instruction + "\n" + q
		}
		a, err := c.prompt(c.ctx, Prompt{Target: c.name(), Question: q, Echo: echos[i]})
		if err != nil {
			return nil, err
		}
		answers[i] = a
	}
	return answers, nil
}

func (c *credentials) password() (string, error) {
	return c.prompt(c.ctx, Prompt{Target: c.name(), Question: fmt.Sprintf("%s's password: ", c.name())})
}

func (c *credentials) name() string { return c.target.user + "@" + c.target.host }

// lockedSigner asks for the passphrase only once the server has said that it takes the key.
type lockedSigner struct {
	public ssh.PublicKey
	unlock func() (ssh.Signer, error)

	mu     sync.Mutex
	signer ssh.Signer
}

func (l *lockedSigner) PublicKey() ssh.PublicKey { return l.public }

func (l *lockedSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return l.SignWithAlgorithm(rand, data, "")
}

func (l *lockedSigner) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.signer == nil {
		signer, err := l.unlock()
		if err != nil {
			return nil, err
		}
		l.signer = signer
	}
	if s, ok := l.signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return l.signer.Sign(rand, data)
}

// readPrivateKey reads a private key's file, which others may not read; what is
// above it is not asked, as ssh does not.
func readPrivateKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := trusted.CheckFile(f, trusted.Secret); err != nil {
		return nil, err
	}
	return fsx.ReadAll(f, maxKeyFile)
}

func readPublicKey(path string) (ssh.PublicKey, error) {
	data, err := fsx.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	return sshkey.Public(data)
}
