package keyserver

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// Config is what a server is made from. Store to AllowedSigners are required.
type Config struct {
	// Name begins the service's id. It is kept at the first start; later it
	// must be the same or empty. Default "sealbatch".
	Name  string
	Store store.Store
	Keys  store.KeyStore
	// AuditLog is the log's file; it is made at the first start.
	AuditLog string
	// AllowedSigners is the administrator's file of accounts, in OpenSSH's
	// allowed_signers format, one name a line. It is read again when it changes.
	AllowedSigners string
	Certificate    tls.Certificate // for Serve
	// LocalDir is where the administrator's socket is made; "" for none.
	LocalDir string
	// NonceKey makes the nonces of attestations; the same one makes them survive a
	// restart. Default: a random one.
	NonceKey []byte
	// Attestors judge evidence, by its type. Evidence of other types is refused.
	Attestors map[string]attest.New
	// MinTier is the weakest evidence for which anything is released;
	// default B2.
	MinTier manifest.Tier
	Limits  Limits
	Log     *slog.Logger     // default: none
	Now     func() time.Time // default: time.Now
}

// Server is the key service.
type Server struct {
	id              string
	signKey         ed25519.PrivateKey
	store           store.Viewer
	keys            store.KeyStore
	accounts        *accounts
	conditions      *service.Conditions
	auditLog        string
	localDir        string
	commits         *committer
	attestors       map[string]attest.Attestor
	nonces          nonces
	replays         *replayCache
	inFlight        *inFlight              // releases
	volumes         *inFlight              // volumes whose key comes or goes
	undestroyed     atomic.Pointer[string] // a volume whose key could not be destroyed
	unwiped         chan struct{}          // holds one when a scrub is asked for
	front           *service.Service
	queue           *gate.FairQueue // of requests for their turn at work
	large           *gate.FairQueue // of those with large bodies, before that
	largeOf         sync.Map        // accounts whose large body is under way, by id
	unauthenticated *unauthenticatedLog
	limits          Limits
	minTier         manifest.Tier
	cert            tls.Certificate
	log             *slog.Logger
	now             func() time.Time
	started         time.Time
	handler         http.Handler
	closing         sync.Once
	closed          error
}

const keyIdentity = "identity"

// serviceIdentity is made at the first start and kept in the store.
type serviceIdentity struct {
	Name string `json:"name"`
	Seed []byte `json:"seed"` // of the Ed25519 statement key
}

// ValidName reports whether a service may have that name.
func ValidName(name string) bool { return serviceNameRE.MatchString(name) }

var serviceNameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$`)

// loadIdentity returns the service's identity, making it if there is none.
func loadIdentity(st store.Store, name string) (id string, key ed25519.PrivateKey, head audit.Head, err error) {
	var si serviceIdentity
	err = st.Update(context.Background(), func(w store.Writer) error {
		err := getJSON(w, bucketMeta, keyIdentity, &si)
		if err == nil {
			// They were made together, below.
			if err = getJSON(w, bucketMeta, keyHead, &head); errors.Is(err, store.ErrNotFound) {
				err = fmt.Errorf("%w: the head of the log was removed from the store", audit.ErrRolledBack)
			}
			return err
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		err = w.Digests(func(bucket, key string, _ store.Digest) error {
			if bucket == bucketMeta && key != keyHead {
				return nil
			}
			return fmt.Errorf("%w: the service's identity was removed from the store", audit.ErrRolledBack)
		})
		if err != nil {
			return err
		}
		pub, priv, err := ed25519.GenerateKey(nil)
		if err != nil {
			return err
		}
		head = audit.Genesis(pub)
		si = serviceIdentity{Name: name, Seed: priv.Seed()}
		if si.Name == "" {
			si.Name = "sealbatch"
		}
		if !ValidName(si.Name) {
			return fmt.Errorf("%.80q is not a service's name: letters, digits, dots, dashes", si.Name)
		}
		return errors.Join(putJSON(w, bucketMeta, keyIdentity, si), putJSON(w, bucketMeta, keyHead, head))
	})
	if err != nil {
		return "", nil, head, fmt.Errorf("identity of the key service: %w", err)
	}
	if name != "" && name != si.Name {
		return "", nil, head, fmt.Errorf("the store belongs to key service %q, the configuration names %q; "+
			"a name cannot be changed, since signatures are bound to it", si.Name, name)
	}
	if len(si.Seed) != ed25519.SeedSize {
		return "", nil, head, errors.New("identity of the key service: damaged record")
	}
	key = ed25519.NewKeyFromSeed(si.Seed)
	return keyapi.ServiceID(si.Name, key.Public().(ed25519.PublicKey)), key, head, nil
}

// New returns a server. It reads the audit log's last segment and all records, and
// refuses to start with audit.ErrBroken, audit.ErrRolledBack or audit.ErrAltered if
// log and store do not agree. Close ends it; the store stays the caller's.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Keys == nil || cfg.AuditLog == "" || cfg.AllowedSigners == "" {
		return nil, errors.New("key service: store, keys, audit log and allowed signers are required")
	}
	s := &Server{store: cfg.Store, keys: cfg.Keys, limits: cfg.Limits.withDefaults(), minTier: cmp.Or(cfg.MinTier, manifest.TierB2),
		cert: cfg.Certificate, log: service.Logger(cfg.Log), now: cfg.Now, replays: newReplayCache(requestsPerAccount),
		inFlight: newInFlight(), volumes: newInFlight(), unwiped: make(chan struct{}, 1),
		conditions: &service.Conditions{}, auditLog: cfg.AuditLog, localDir: cfg.LocalDir}
	if s.now == nil {
		s.now = time.Now
	}
	s.started = s.now()
	s.front = service.New(service.Config{
		Name: "key service", LogHint: logHint, Log: s.log, Times: times, MaxHeader: maxHeader,
		Limits: gate.Limits{Connections: s.limits.Connections, PerSecond: s.limits.PerSecond, Burst: s.limits.Burst, Memory: s.limits.Memory,
			Small: gate.SmallBody},
	})
	s.queue = gate.NewFairQueue(s.limits.Concurrent, 8*s.limits.Concurrent)
	s.large = gate.NewFairQueue(1, s.limits.Concurrent)
	s.unauthenticated = newUnauthenticatedLog()
	var head audit.Head
	var err error
	if s.id, s.signKey, head, err = loadIdentity(cfg.Store, cfg.Name); err != nil {
		return nil, err
	}
	s.nonces = newNonces(cfg.NonceKey, s.id)
	if err := s.addAttestors(cfg.Attestors); err != nil {
		return nil, err
	}
	log, dropped, err := s.openLog(head)
	if err != nil {
		return nil, err
	}
	s.commits = newCommitter(cfg.Store, log, s.id, s.now, s.conditions, s.limits.Segment)
	s.accounts = &accounts{path: cfg.AllowedSigners, store: s.store, commits: s.commits, conditions: s.conditions, log: s.log}
	s.handler = s.routes()
	if err := s.begin(dropped); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openLog opens the audit log and holds the store against it.
func (s *Server) openLog(head audit.Head) (log *audit.Log, dropped int, err error) {
	if log, dropped, err = audit.Open(s.auditLog, nil, s.signKey, head); err != nil {
		return nil, 0, err
	}
	began := time.Now()
	err = s.store.View(context.Background(), func(r store.Reader) error { return log.Start(s.now(), r) })
	if err != nil {
		return nil, 0, errors.Join(err, log.Close())
	}
	s.log.Info("the records are those that the audit log tells of", "took", time.Since(began).Round(time.Millisecond))
	return log, dropped, nil
}

// begin does what comes before the first request.
func (s *Server) begin(dropped int) error {
	if err := s.noteStart(dropped); err != nil {
		return err
	}
	if err := s.accounts.refresh(context.Background()); err != nil {
		return fault.New(fault.Config, err, cmp.Or(fault.Hint(err),
			"serve --check names each line that is wrong; [server] allowed-signers names the file"))
	}
	if _, err := s.purge(context.Background()); err != nil {
		s.log.Error("outdated records were not removed", "error", err)
	}
	if err := s.finishDestructions(context.Background()); err != nil {
		s.log.Error("keys that are to be destroyed are there still; nothing is released of them", "error", err)
	}
	s.scrubSoon() // what the service that ran before did not come to
	return nil
}

// noteStart writes down that the service started, and of how many entries at
// the end of the log the answers never left.
func (s *Server) noteStart(dropped int) error {
	e := &audit.Event{Event: "service.start", Outcome: audit.OutcomeDone}
	if dropped > 0 {
		e.Reason = fmt.Sprintf("the service died before the last %d entries took effect: they were not answered, and are removed", dropped)
		s.log.Warn(e.Reason)
	}
	_, err := s.commits.do(e, nil)
	return err
}

func (s *Server) addAttestors(types map[string]attest.New) error {
	s.attestors = map[string]attest.Attestor{}
	for typ, make := range types {
		a, err := make(attest.Service{Store: s.store, Now: s.now})
		if err != nil {
			return fmt.Errorf("attestor of evidence of type %s: %w", typ, err)
		}
		s.attestors[typ] = a
	}
	return nil
}

// ID returns the service's id.
func (s *Server) ID() string { return s.id }

// StatementKey returns the key that statements, audit entries and heads are
// signed with.
func (s *Server) StatementKey() ed25519.PublicKey { return s.signKey.Public().(ed25519.PublicKey) }

func (s *Server) statementKey() string { return manifest.EncodeKey(s.StatementKey()) }

// Reload reads the accounts again, whether or not their file seems to have changed.
// On error those are enrolled that stand in the last good version, too.
func (s *Server) Reload(ctx context.Context) error { return s.accounts.read(ctx, true) }

// Close ends the committer and closes the audit log. No request may be under way.
func (s *Server) Close() error {
	s.closing.Do(func() { s.closed = s.commits.close() })
	return s.closed
}

func (s *Server) describe(*request) (any, error) {
	out := keyapi.Service{ID: s.id, Time: s.now().UTC(), StatementKey: s.statementKey(), Clusters: []keyapi.Cluster{}}
	for _, typ := range slices.Sorted(maps.Keys(s.attestors)) {
		own := keyapi.Attestor{Type: typ}
		if d, ok := s.attestors[typ].(attest.Describer); ok {
			d.Describe(&out, &own)
		}
		out.Attestors = append(out.Attestors, own)
	}
	return out, nil
}

// auditHead answers GET /v1/audit/head with the head after its own entry, if it is given one.
func (s *Server) auditHead(q *request) (any, error) {
	h, err := q.commit(q.event("audit.head", audit.OutcomeDone), nil)
	return keyapi.SignedHead{Head: h}, err
}

// times that connections may take. A request waits at most for its turn in the
// committer and one disk write.
var times = service.Times{
	Header: 5 * time.Second, Read: 30 * time.Second, Write: 60 * time.Second, Idle: 60 * time.Second,
	Shutdown: 10 * time.Second,
}

const maxHeader = 32 << 10

// Serve answers on ln with TLS 1.3 until ctx ends, then finishes what is under
// way and closes the server.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	background, stop := context.WithCancel(ctx)
	defer stop()
	var others sync.WaitGroup
	others.Go(func() { s.purgeUntil(background) })
	others.Go(func() { s.accounts.refreshUntil(background) })
	others.Go(func() { s.scrubUntil(background) })
	others.Go(func() { s.checkUntil(background) })
	if s.localDir != "" {
		others.Go(func() { s.serveLocal(background) })
	}
	err := s.front.Serve(ctx, ln, s.cert, s.handler)
	stop()
	others.Wait()                          // they use committer and store, too
	if errors.Is(err, service.ErrAtWork) { // the committer must stay
		return err
	}
	s.noteOmitted()
	s.scrubIfAsked()
	return errors.Join(err, s.Close())
}
