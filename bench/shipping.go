package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/internal/transfer/transfertest"
)

// sshd is an OpenSSH server on loopback, and a way to it that takes long.
type sshd struct {
	port, farPort         int
	key, rsa, known, base string // files: keys for logging in, known hosts; the directory of all
}

// rtt is the round trip of the slow way.
const rtt = 50 * time.Millisecond

// shipping compares sealing and uploading with uploading what is sealed already.
func (b *bench) shipping(ctx context.Context) error {
	if !b.only.MatchString("seal and upload") {
		return nil
	}
	if err := b.startSSHD(ctx); err != nil {
		return err
	}
	relayed, err := transfertest.Start(ctx, fmt.Sprintf("127.0.0.1:%d", b.ssh.port), rtt/2)
	if err != nil {
		return err
	}
	b.ssh.farPort = relayed.Port()
	b.undo = append(b.undo, relayed.Close)
	if err := b.trust(b.ssh.farPort); err != nil {
		return err
	}
	d := &b.data
	near, far := b.ssh.port, b.ssh.farPort
	return b.contests(ctx, "Sealing and uploading; the peers but HPCS upload a file that is sealed already",
		contest{what: "seal and upload, loopback", ours: contender{run: b.publish(d.tree, near)}, rest: []contender{
			{"sftp put", 0.9, b.sftp(d.sealed, near)},
			{"rclone copyto", 0, b.rclone(d.sealed, near)},
			{"HPCS: tar.gz, age, scp in Python", 0, b.hpcsShip},
		}},
		contest{what: "seal and upload, 50 ms away", ours: contender{run: b.publish(filepath.Dir(d.far), far)}, rest: []contender{
			{"sftp put", 3, b.sftp(d.sealedFar, far)},
			{"rclone copyto", 0, b.rclone(d.sealedFar, far)},
		}})
}

func (b *bench) startSSHD(ctx context.Context) error {
	s := &b.ssh
	s.base = b.path("ssh")
	s.key, s.rsa, s.known = filepath.Join(s.base, "login"), filepath.Join(s.base, "login_rsa"), filepath.Join(s.base, "known_hosts")
	host := filepath.Join(s.base, "host")
	if err := errors.Join(os.MkdirAll(s.base, 0o700), os.MkdirAll("/run/sshd", 0o755)); err != nil { // sshd's privilege separation
		return err
	}
	for file, kind := range map[string]string{host: "ed25519", s.key: "ed25519", s.rsa: "rsa"} {
		if _, err := b.command(ctx, "ssh-keygen", "-q", "-N", "", "-m", "PEM", "-t", kind, "-f", file); err != nil {
			return err
		}
	}
	if err := b.pipe(ctx, fmt.Sprintf("cat %s.pub %s.pub > %s/authorized_keys", s.key, s.rsa, s.base)); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return err
	}
	config := filepath.Join(s.base, "sshd_config")
	text := fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s\nAuthorizedKeysFile %s/authorized_keys\nPidFile none\nUsePAM no\n"+
		"StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n", s.port, host, s.base)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/usr/sbin/sshd", "-D", "-e", "-f", config)
	if err := cmd.Start(); err != nil {
		return err
	}
	b.undo = append(b.undo, func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // says that it was killed
		return err
	})
	if err := b.trust(s.port); err != nil {
		return err
	}
	return reachable(ctx, s.port)
}

// reachable waits until something listens.
func reachable(ctx context.Context, port int) error {
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return c.Close()
		}
		if time.Since(begin) > 10*time.Second || ctx.Err() != nil {
			return err
		}
	}
}

// trust writes the host key down for a port.
func (b *bench) trust(port int) error {
	pub, err := os.ReadFile(filepath.Join(b.ssh.base, "host.pub"))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(b.ssh.known, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "[127.0.0.1]:%d %s", port, pub)
	return err
}

// publish does what data-prep does: connect, seal into a local file, upload that,
// deposit the key (here with nobody), sign.
func (b *bench) publish(tree string, port int) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		dir, err := os.MkdirTemp(b.root, "publish-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return 0, err
		}
		signer, err := ssh.NewSignerFromKey(private)
		if err != nil {
			return 0, err
		}
		recipient, err := age.ParseX25519Recipient(b.recipient)
		if err != nil {
			return 0, err
		}
		remote := filepath.Join(dir, "remote")
		if err := os.Mkdir(remote, 0o700); err != nil {
			return 0, err
		}
		begin := time.Now()
		client, err := transfer.Dial(ctx, transfer.Options{Host: "127.0.0.1", Port: port, User: "root", Keys: []string{b.ssh.key},
			KnownHosts: []string{b.ssh.known}, ConfigFile: "none", ProxyJump: "none"})
		if err != nil {
			return 0, err
		}
		defer client.Close()
		fsys, err := client.FS()
		if err != nil {
			return 0, err
		}
		_, err = publish.Run(ctx, publish.Deps{FS: fsys, Keys: noKeys{}, Signer: signer}, publish.Request{
			Input: source.At(tree), Kind: manifest.KindDataset,
			Target: publish.Target{
				Name: "data", SealedPath: filepath.Join(dir, "local.sealed"), DirAtRest: remote, ServiceURL: "https://127.0.0.1:1",
				Policy: manifest.Policy{
					Users: []string{"alice"}, Nodes: []string{"cn1"}, Tier: manifest.TierB2, Expires: time.Now().Add(time.Hour).UTC(),
				},
				Recipients: []age.Recipient{recipient}, Readers: []string{b.recipient},
			},
		})
		return time.Since(begin), err
	}
}

// noKeys is a key service that forgets: its figures are another table's.
type noKeys struct{}

func (noKeys) Secrets(context.Context) iter.Seq2[keyapi.SecretEntry, error] {
	return func(func(keyapi.SecretEntry, error) bool) {}
}
func (noKeys) GetSecret(context.Context, string) (keyapi.SecretInfo, error) {
	return keyapi.SecretInfo{}, keyclient.ErrNotFound
}
func (noKeys) PutSecret(context.Context, string, keyapi.Secret) (keyapi.SecretInfo, error) {
	return keyapi.SecretInfo{}, nil
}

func (b *bench) sftp(file string, port int) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		out := b.path("put.sealed")
		defer os.Remove(out)
		cmd := exec.CommandContext(ctx, "sftp", "-q", "-b", "-", "-F", "none", "-P", fmt.Sprint(port), "-i", b.ssh.key,
			"-o", "UserKnownHostsFile="+b.ssh.known, "-o", "IdentitiesOnly=yes", "root@127.0.0.1")
		cmd.Stdin = strings.NewReader("put " + file + " " + out + "\n")
		begin := time.Now()
		if text, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("sftp: %w\n%s", err, text)
		}
		return time.Since(begin), sameSize(file, out)
	}
}

func (b *bench) rclone(file string, port int) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		out := b.path("rclone.sealed")
		defer os.Remove(out)
		took, err := b.timed(ctx, "rclone", "--config", "", "--sftp-host", "127.0.0.1", "--sftp-port", fmt.Sprint(port), "--sftp-user", "root",
			"--sftp-key-file", b.ssh.key, "--sftp-known-hosts-file", b.ssh.known, "copyto", file, ":sftp:"+out)
		return took, errors.Join(err, sameSize(file, out))
	}
}

func sameSize(a, b string) error {
	x, err := os.Stat(a)
	if err != nil {
		return err
	}
	y, err := os.Stat(b)
	if err == nil && x.Size() != y.Size() {
		err = fmt.Errorf("%d bytes arrived of %d", y.Size(), x.Size())
	}
	return err
}
