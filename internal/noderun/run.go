package noderun

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/internal/version"
)

// Options say what to run. JobDir, Digest and SelfDir are needed.
type Options struct {
	JobDir string // path of the job's directory on the shared storage
	Digest string // of its manifest, "sha256:HEX"
	// SelfDir is the node-local 0700 directory with this job's own copies of
	// sealbatch and gocryptfs. They are removed at the end, and it if nothing
	// else is in it.
	SelfDir string
	Keys    KeySource // nil: the manifest's key service
	// Input has the nodes' credentials, one a line, if the job's type of evidence
	// has any. It is closed once it is read; the application never sees it.
	Input   io.ReadCloser
	Environ []string // nil: os.Environ()
	// Mounts is the mount mode; Auto takes the first that works.
	Mounts sandbox.Mode
	Log    *slog.Logger
	// Grace is how long the application may take to end after SIGUSR1; 10 s if 0.
	Grace time.Duration
}

// Run is the whole life of a node's supervisor. It returns the exit code for
// the process (the application's, or one of ExitMeanings) and what went wrong,
// if anything did: an application's own failure is no error.
//
// Run is made for a process of its own: it handles signals, forbids core dumps,
// sets the umask and makes the process undumpable, all for good.
func Run(ctx context.Context, opt Options) (exit int, err error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Environ == nil {
		opt.Environ = os.Environ()
	}
	times := defaultTimes
	if opt.Grace > 0 {
		times.grace = opt.Grace
	}
	signals := make(chan os.Signal, 16)
	// SIGPIPE is caught so that a log that nobody reads any more does not end
	// the run. (Ignored, it would stay ignored in the application.)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	defer signal.Stop(signals)
	s := &supervisor{log: opt.Log, started: time.Now(), halt: newHalt(ctx, signals, times)}
	defer s.halt.close()
	s.log.Info("sealbatch " + version.String())
	app, err := s.run(opt)
	return exitCode(app, err), err
}

// run goes through the phases of a run, each of which returns the value that the
// next one works with. It returns the application's exit code, or neverRan.
//
// The values are torn down in reverse order, whatever happens: the mounts end,
// the keys are wiped, and the node-local directory is removed last.
func (s *supervisor) run(opt Options) (app int, err error) {
	a, err := s.admit(opt)
	defer a.tearDown()
	if err != nil {
		return neverRan, err
	}
	g, err := a.attest(opt.Keys, opt.Input)
	defer g.close()
	if err != nil {
		return neverRan, err
	}
	// From here on there is a receipt, whatever happens.
	m, err := g.mount()
	defer m.close()
	r := ran{mounted: m, app: neverRan, err: err}
	if err == nil {
		r = m.run()
	}
	return r.app, r.seal().conclude()
}

// neverRan stands in a receipt for the exit code of an application that was
// not started.
const neverRan = -1
