package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"

	"filippo.io/age"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/knownservice"
	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/internal/userdirs"
	"github.com/sealbatch/sealbatch/slurm"
	"github.com/sealbatch/sealbatch/volume"
)

// client is what the workflow commands share: the configuration, the account
// key, the key service and the site.
type client struct {
	a      *app
	conf   *config.Client
	signer ssh.Signer
	ca     []byte // of [hpcs-server] ca-cert; nil without one
	keys   *keyclient.Client
	fs     transfer.FS
	run    slurm.Runner
	close  func() error
}

// clientFlags are the flags that every workflow command has.
type clientFlags struct {
	config, username string
}

func (c *clientFlags) add(f *ui.Flags) {
	f.String(&c.config, "configuration file (default: $SEALBATCH_CONFIG, else ~/.config/sealbatch/client.conf)", []string{"config"})
	f.Word(&c.username, "user at the site (default: the configuration's)", []string{"username"})
}

// loadClient reads the configuration and the account key. It contacts nobody, unless the SSH agent holds several
// keys that may be the account's: then the key service is asked which is.
func loadClient(ctx context.Context, a *app, cf clientFlags) (*client, error) {
	conf, err := config.LoadClient(cf.config)
	if err != nil {
		return nil, err
	}
	if cf.username != "" {
		conf.Supercomputer.Username = cf.username
	}
	for _, w := range conf.Warnings {
		a.log.Warn(w)
	}
	c := &client{a: a, conf: conf, close: func() error { return nil }}
	if err := c.atHome(ctx); err != nil {
		return nil, err
	}
	if conf.Service.CACert != "" {
		if c.ca, err = trusted.ReadFile(conf.Service.CACert, maxSmallFile); err != nil {
			return nil, fault.New(fault.Config, fmt.Errorf("[hpcs-server] ca-cert: %w", err), "")
		}
	}
	keys, err := c.signers(ctx)
	if err != nil {
		return nil, err
	}
	return c, c.choose(ctx, keys)
}

// newKeys makes the key service's client. Without ca-cert this machine's authorities vouch for the service, and what it
// said of itself at first use is remembered.
func (c *client) newKeys() (err error) {
	o := keyclient.Options{URL: c.conf.Service.URL, CA: c.ca, Signer: c.signer, Proxy: http.ProxyFromEnvironment, Log: c.a.log}
	if c.conf.Service.CACert == "" {
		state, err := userdirs.StateDir()
		if err != nil {
			return fault.New(fault.Config, err, "")
		}
		o.SystemRoots = true
		known := knownservice.Open(state.Dir, c.a.log)
		o.Known = func(s keyapi.Service) error {
			_, _ = c.a.state() // says where that is, if it is unusual; Check says what cannot be kept
			return known.Check(c.conf.Service.URL, s)
		}
	}
	c.keys, err = keyclient.New(o)
	return fault.New(fault.Config, err, "")
}

// authority returns the authority, in PEM, that a job's nodes are to believe for the key service: the configured one, else
// the one of this machine's that vouched for it. No node believes the others, nor those of the site.
func (c *client) authority(ctx context.Context) (string, error) {
	if c.conf.Service.CACert != "" {
		return string(c.ca), nil
	}
	root, err := c.keys.Root(ctx)
	return string(root), err
}

// atHome finds out whether this is the login node itself, where no SSH is needed.
func (c *client) atHome(ctx context.Context) error {
	s := &c.conf.Supercomputer
	switch me := transfer.Myself(ctx); {
	case s.Local && s.Username != "" && me != "" && s.Username != me:
		return fault.New(fault.Config, fmt.Errorf("local = yes in [supercomputer] works as %s, not as %s", me, s.Username),
			"take out local = yes to log in over SSH, or name no other user")
	case !s.Local && s.Address != "" && transfer.ThisHost(ctx, c.dialing()):
		c.a.log.Debug(s.Address + " is this machine: no SSH is needed")
		s.Local = true
	}
	if s.Local {
		s.Address = ""
	}
	return nil
}

// dialing are the options to log in to the site with.
func (c *client) dialing() transfer.Options {
	s := c.conf.Supercomputer
	return transfer.Options{
		Host: s.Address, Port: s.Port, User: s.Username, Keys: s.SSHKeys, KnownHosts: s.KnownHosts, ConfigFile: s.SSHConfig,
		ProxyJump: s.ProxyJump, Prompt: c.a.prompt, Connections: s.Connections,
	}
}

// connect reaches the site, unless it is reached: over SSH, or directly on a login node.
func (c *client) connect(ctx context.Context) error {
	if c.fs != nil {
		return nil
	}
	s := c.conf.Supercomputer
	if s.Local {
		c.fs, c.run = transfer.Local{}, transfer.Local{}
		return nil
	}
	if s.Address == "" {
		return fault.New(fault.Config, fmt.Errorf("%s: [supercomputer] address is missing", c.conf.Path),
			"name the login node, or set local = yes when you are on it")
	}
	t, err := transfer.Dial(ctx, c.dialing())
	if err != nil {
		return err
	}
	c.run, c.close = t, t.Close
	if c.fs, err = t.FS(); err != nil {
		return errors.Join(err, t.Close())
	}
	return nil
}

// reconnect replaces a connection that broke.
func (c *client) reconnect(ctx context.Context) (transfer.FS, error) {
	c.close()
	c.fs = nil
	err := c.connect(ctx)
	return c.fs, err
}

// identities reads the keys that open the user's own volumes and results; of several
// files, those that can be read. An error if none can.
func (c *client) identities(files []string) (ids []age.Identity, err error) {
	if len(files) == 0 {
		return nil, fault.New(fault.Key, errors.New("the account key is in the SSH agent only, which opens nothing"),
			"name the key's file with -i, or under [results] identity; or open it where that file is")
	}
	var unread error
	for _, file := range files {
		got, err := volume.ParseIdentityFile(file, func() ([]byte, error) { return c.a.passphrase("Passphrase of " + file + ": ") },
			c.a.plugins())
		ids, unread = append(ids, got...), errors.Join(unread, err)
	}
	if len(ids) == 0 {
		return nil, unread
	}
	if unread != nil {
		c.a.log.Debug("not all keys that may open it can be read", "error", unread)
	}
	return ids, nil
}

func (c *client) slurm() slurm.Commands {
	return slurm.Commands{Runner: c.run, BinDir: c.conf.Supercomputer.SlurmBin, Notices: c.a.stderr}
}

// trust returns whose info files count: one's own, which those of the account's other
// keys are, and those of the configured signers.
func (c *client) trust(ctx context.Context) (sshid.Trust, error) {
	t := sshid.Trust{Own: []ssh.PublicKey{c.signer.PublicKey()}, File: c.conf.Trust.AllowedSigners,
		Others: sync.OnceValues(func() ([]sshid.AllowedSigner, error) { return c.accountKeys(ctx) })}
	if t.File == "" {
		return t, nil
	}
	f, err := trusted.Open(t.File, trusted.Public)
	if err == nil {
		defer f.Close()
		t.Allowed, err = sshid.ParseAllowedSigners(f)
	}
	return t, fault.New(fault.Config, wrap("[trust] allowed-signers", err), "")
}

// accountKeys returns the keys of the user's account, as the key service has them.
func (c *client) accountKeys(ctx context.Context) (keys []sshid.AllowedSigner, err error) {
	account, err := c.keys.Account(ctx)
	if err != nil {
		return nil, fmt.Errorf("the account's keys: %w", err)
	}
	for _, k := range account.Keys {
		pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.Key))
		if err != nil {
			return nil, fmt.Errorf("the account's keys: %w: %w", keyclient.ErrAnswer, err)
		}
		keys = append(keys, sshid.AllowedSigner{Principals: []string{account.Name}, Namespaces: k.Namespaces,
			ValidAfter: k.ValidAfter, ValidBefore: k.ValidBefore, Key: pub})
	}
	return keys, nil
}

// orHint returns the hint that err has, else another.
func orHint(err error, hint string) string {
	if h := fault.Hint(err); h != "" {
		return h
	}
	return hint
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// recipients are who can open the user's volumes and results without the key
// service: those configured, else the account key if age can use it.
func (c *client) recipients() ([]string, error) {
	given := c.conf.Results.Recipients
	if len(given) == 0 {
		own := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(c.signer.PublicKey())))
		if _, err := volume.ParseRecipients([]string{own}); err != nil {
			return nil, fault.New(fault.Config, fmt.Errorf("nobody could open the results: with the account key, %w", err),
				"name a recipient under [results] recipients, such as an age1... key of age-keygen")
		}
		return []string{own}, nil
	}
	var out []string
	for _, g := range given {
		if !filepath.IsAbs(g) {
			out = append(out, g)
			continue
		}
		lines, err := volume.ReadRecipients(g, c.a.plugins(), c.a.skipped)
		if err != nil {
			return nil, fault.New(fault.Config, wrap("[results] recipients", err), "")
		}
		out = append(out, lines...)
	}
	return out, nil
}

// ageRecipients are the recipients, as text and parsed; plugins is nil where they
// are for a node, which runs none.
func (c *client) ageRecipients(plugins *plugin.ClientUI) ([]string, []age.Recipient, error) {
	text, err := c.recipients()
	if err != nil {
		return nil, nil, err
	}
	parse := volume.ParseRecipients
	if plugins != nil {
		parse = func(s []string) ([]age.Recipient, error) { return volume.ParseOwnRecipients(s, plugins, nil) }
	}
	r, err := parse(text)
	return text, r, fault.New(fault.Config, wrap("[results] recipients", err), "")
}

// identityFiles returns the files that open results; none where the account key is only in the SSH agent.
func (c *client) identityFiles() []string {
	if len(c.conf.Results.Identities) > 0 {
		return c.conf.Results.Identities
	}
	if c.conf.Identity.SSHKey == "" {
		return nil
	}
	return []string{strings.TrimSuffix(c.conf.Identity.SSHKey, ".pub")}
}

// progress starts a progress line on standard error.
func (c *client) progress(label string, done, total int64) progress.Bar {
	return ui.NewProgress(c.a.stderr, label, done, total)
}

// maxSmallFile bounds what is read whole, in bytes.
const maxSmallFile = 1 << 20
