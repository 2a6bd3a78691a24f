package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/slotstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/token"
	"github.com/sealbatch/sealbatch/internal/keyserver/voucher"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/setup"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/internal/version"
)

func runServe(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch serve", "Run the key service, or set one up with --init.", "", `
sealbatch serve --init /etc/sealbatch --data /var/lib/sealbatch --user sealbatch --host keys.example.org
sealbatch serve --config /etc/sealbatch/server.conf --check
sealbatch serve account list --config /etc/sealbatch/server.conf
sealbatch serve --config /etc/sealbatch/server.conf`)
	var conf string
	var check, newStore bool
	o := setup.KeyServiceOptions{Listen: "127.0.0.1:8443"}
	f.String(&conf, "configuration file, as in server.conf.example", []string{"c", "config"})
	f.Bool(&check, "say what is wrong with the set-up that --config names, and exit; nothing is started", []string{"check"})
	f.Bool(&newStore, "make store, audit log and keys of a new service in the data directory that --config names, and exit",
		[]string{"new-store"})
	f.String(&o.Dir, "make all that a new service needs in this directory (DIR) and others, and exit", []string{"init"})
	f.List(&o.Hosts, "with --init: names and addresses for its certificate; the first names the service", []string{"host"})
	f.Word(&o.Listen, "with --init: address to listen on", []string{"listen"})
	f.Word(&o.User, "with --init: Unix user as whom the service will run (default: who runs this)", []string{"user"})
	f.String(&o.Data, "with --init: directory of its store and audit log (default: DIR/data)", []string{"data"})
	f.String(&o.Master, "with --init: directory of the master key (default: DIR-master)", []string{"master"})
	f.String(&o.Offline, "with --init: directory of the authority's key, to be taken away (default: DIR-offline)",
		[]string{"offline"})
	f.Bool(&o.NoStore, "with --init: without the data directory, which --new-store makes elsewhere", []string{"no-store"})
	if err := a.parse(f, args); err != nil {
		return err
	}
	switch {
	case o.Dir != "":
		return initServer(a, o)
	case conf == "":
		return usageError("sealbatch serve: --config or --init is needed", "sealbatch serve --help shows an example")
	case check:
		return checkServer(a, conf)
	}
	c, err := loadServer(conf)
	switch {
	case err != nil:
		return err
	case newStore:
		return initStore(ctx, a, c)
	}
	return serve(ctx, a, c)
}

// loadServer reads the configuration, and has its group count as this user.
func loadServer(conf string) (*config.Server, error) {
	c, err := config.LoadServer(conf)
	if err != nil || c.Group == 0 {
		return c, ofHPCS(err)
	}
	if err := trusted.ShareGroup(c.Group); err != nil {
		return nil, fault.New(fault.Config, fmt.Errorf("%s: [server] group: %w", c.Path, err),
			"run this as the service's user, with that group (Kubernetes: runAsUser, fsGroup)")
	}
	return c, nil
}

// initServer sets up a key service: keys, certificates, store and configuration.
func initServer(a *app, o setup.KeyServiceOptions) error {
	if err := notStdout(o.Dir); err != nil {
		return err
	}
	if len(o.Hosts) == 0 {
		return usageError("sealbatch serve --init: --host is needed", "name the host as clients will reach it")
	}
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		return fault.New(fault.Usage, wrap("--listen", err), "write ADDRESS:PORT")
	}
	l, err := setup.NewKeyService(o)
	if err != nil {
		return userHint(err)
	}
	if o.NoStore {
		return sayKeysOnly(a, o, l)
	}
	fmt.Fprintf(a.stderr, `key service %s is set up in %s
  give to its users        %s (their ca-cert)
  enrol its users          one line a key in %s
  keep apart, and safe     a copy of %s, elsewhere than copies of %s
  take off this machine    %s: the authority's key, which renews the certificate
  releases nothing yet     until a cluster's verifier is enrolled, or [limits] min-tier = C allows one-time tokens
  start it                 %s
`, l.ID, o.Dir, l.CA, l.AllowedSigners, l.MasterKey, l.Data, filepath.Dir(l.CAKey),
		startAs(o.User, "sealbatch serve --config "+l.Config))
	fmt.Fprintln(a.stdout, l.Config)
	return nil
}

// userHint returns err with what to do about a user for whom nothing can be set up.
func userHint(err error) error {
	if errors.Is(err, setup.ErrUser) {
		return fault.New(fault.Usage, err,
			"run this as root, where the service will run and its user exists (useradd --system)")
	}
	return err
}

// startAs says as whom a command is to be run.
func startAs(user, command string) string {
	switch {
	case user != "":
		return command + ", as " + user
	case os.Geteuid() == 0:
		return command + " (as root: better a user of its own, --user)"
	}
	return command
}

// keyStores are the types of key stores that server.conf may name.
var keyStores = store.KeyStores{"slots": slotstore.Open}

// attestors are the types of evidence that the key service takes.
var attestors = attest.Types{
	keyapi.EvidenceSlurm: voucher.FromConfig,
	keyapi.EvidenceToken: token.FromConfig,
}

func serve(ctx context.Context, a *app, c *config.Server) error {
	s, err := newKeyService(ctx, c, keyStores, a.log)
	if err != nil {
		return err
	}
	defer s.closeStores()
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	warnOperator(c, a.log)
	defer onSignal(ctx, syscall.SIGHUP, func() {
		if err := s.Reload(ctx); err != nil {
			a.log.Error("accounts were not read again", "error", err)
		}
	})()
	defer onSignal(ctx, syscall.SIGUSR1, func() {
		if err := s.Rotate(ctx); err != nil {
			a.log.Error("the audit log has no new segment", "error", err)
		}
	})()
	a.log.Info("key service is ready", "version", version.String(), "id", s.ID(), "listen", ln.Addr().String(), "clusters", len(c.Clusters))
	return s.Serve(ctx, ln)
}

// warnOperator says what the operator may not have meant.
func warnOperator(c *config.Server, log *slog.Logger) {
	warnRoot(log)
	if why := nothingReleased(c); why != "" {
		log.Warn(why, "hint", enrolOrLower)
	}
}

// warnRoot says that a service does not need what root may do.
func warnRoot(log *slog.Logger) {
	if os.Geteuid() == 0 {
		log.Warn("this service runs as root, which it has no use for",
			"hint", "give it a user of its own: --init --user, and User= in its unit")
	}
}

// keyService is a key service over its stores.
type keyService struct {
	*keyserver.Server
	records *boltstore.Store
	keys    store.KeyStoreCloser
}

// newKeyService returns the service that a configuration describes, with a key
// store of one of types. The caller calls closeStores after the service's end.
func newKeyService(
	ctx context.Context, c *config.Server, types store.KeyStores, log *slog.Logger,
) (*keyService, error) {
	if err := missing(filepath.Join(c.DataDir, boltstore.FileName)); err != nil { // only --init and --new-store make one
		return nil, err
	}
	return openKeyService(ctx, c, types, log)
}

// openKeyService is newKeyService, and makes what is not there.
func openKeyService(
	ctx context.Context, c *config.Server, types store.KeyStores, log *slog.Logger,
) (*keyService, error) {
	judges, err := attestors.Configure(c)
	if err != nil {
		return nil, fault.New(fault.Config, err, "")
	}
	cert, err := setup.Certificates{TLSCert: c.TLSCert, TLSKey: c.TLSKey}.Load()
	if err != nil {
		return nil, err
	}
	tier, err := manifest.ParseTier(c.MinTier)
	if err != nil {
		return nil, fault.New(fault.Config, err, "")
	}
	s := &keyService{}
	if err := s.openStores(ctx, c, types, log); err != nil {
		return nil, err
	}
	nonceKey, err := s.records.Derive(purposeNonces)
	if err != nil {
		return nil, errors.Join(err, s.closeStores())
	}
	s.Server, err = keyserver.New(keyserver.Config{
		Name: c.Name, Store: s.records, Keys: s.keys, AuditLog: c.Audit, AllowedSigners: c.AllowedSigners, Certificate: cert,
		Attestors: judges, MinTier: tier, Log: log, LocalDir: c.DataDir, NonceKey: nonceKey,
		Limits: serverLimits(c.Limits),
	})
	if err != nil {
		return nil, errors.Join(damagedStore(notFresh(err)), s.closeStores())
	}
	return s, nil
}

// notFresh gives an error of a log and a store that do not agree its class and hint.
func notFresh(err error) error {
	for _, e := range []error{audit.ErrBroken, audit.ErrRolledBack, audit.ErrAltered} {
		if errors.Is(err, e) {
			return fault.New(fault.Integrity, err, "keep a copy of the data directory as it is, find out who changed it, "+
				"and put back store and log of one backup: see \"Backup and restoring\" in docs/key-service.md")
		}
	}
	return err
}

// purposeNonces names the key that nonces of attestations are made with.
const purposeNonces = "nonces"

func serverLimits(l config.ServerLimits) keyserver.Limits {
	return keyserver.Limits{
		Body: int64(l.MaxRequestBytes), Connections: l.Connections, Memory: int64(l.BodyMemory),
		Concurrent: l.ConcurrentRequests,
		PerSecond:  float64(l.RatePerSecond), Burst: l.Burst,
		Secrets: l.SecretsPerAccount, Manifests: l.ManifestsPerAccount, Tokens: l.TokensPerAccount,
		Deleted: l.DeletionsPerAccount, Releases: l.ReleasesPerAccount, JobBytes: l.JobBytesPerAccount,
		Segment: int64(l.AuditSegment),
	}
}

func (s *keyService) openStores(ctx context.Context, c *config.Server, types store.KeyStores, log *slog.Logger) error {
	master, err := boltstore.LoadMasterKey(c.MasterKeyFile)
	if err != nil {
		return damagedStore(masterKey(err))
	}
	if err := errors.Join(strayFiles(c)...); err != nil {
		return err
	}
	if s.records, err = boltstore.Open(filepath.Join(c.DataDir, boltstore.FileName), master); err != nil {
		return damagedStore(err)
	}
	s.keys, err = types.Open(ctx, c.KeyStore.Type, s.records.Home(log), c.KeyStore.Parameters)
	if errors.Is(err, store.ErrConfig) {
		err = fault.New(fault.Config, fmt.Errorf("%s: [key-store]: %w", c.Path, err), "")
	}
	if err != nil {
		return errors.Join(damagedStore(err), s.records.Close())
	}
	return nil
}

// missing returns the error of a file of the service's data that is not there, or is empty.
func missing(path string) error {
	what := "is empty"
	switch st, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		what = "is missing"
	case err != nil:
		return err
	case st.Size() > 0:
		return nil
	}
	return fault.New(fault.Integrity, fmt.Errorf("%s %s", path, what),
		"restore it from a backup (\"Backup and restoring\" in docs/key-service.md), or make a new service with --init")
}

// masterKey gives an error of the master key's file its class and hint.
func masterKey(err error) error {
	hint := ""
	if errors.Is(err, fs.ErrNotExist) {
		hint = "look for a slip in [server] master-key-file, or put the copy back that is kept elsewhere: without it the store opens for nobody"
	}
	return fault.New(fault.Config, err, hint)
}

// damagedStore gives an error of what the service keeps its class and hint, where it was damaged or does not belong together.
func damagedStore(err error) error {
	const restore = "keep a copy of it as it is, and restore it: see \"Backup and restoring\" in docs/key-service.md"
	switch {
	case errors.Is(err, store.ErrMissing):
		return fault.New(fault.Integrity, err, "put it back from its backup: the volumes' keys lie in it, and nowhere else "+
			"(\"Backup and restoring\" in docs/key-service.md)")
	case errors.Is(err, store.ErrDamaged):
		return fault.New(fault.Integrity, err, restore)
	case errors.Is(err, store.ErrSeal):
		return fault.New(fault.Integrity, err,
			"master-key-file names the key of another service, or key or store were damaged: put back the key that belongs to the store")
	}
	return err
}

func (s *keyService) closeStores() error { return errors.Join(s.keys.Close(), s.records.Close()) }

// onSignal calls fn at each signal, until ctx ends. The caller calls stop in the end.
func onSignal(ctx context.Context, sig os.Signal, fn func()) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, sig)
	go func() {
		for {
			select {
			case <-signals:
				fn()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { signal.Stop(signals) }
}
