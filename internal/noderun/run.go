package noderun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path"
	"syscall"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/harden"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/nodelocal"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/volume"
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
	Environ []string  // nil: os.Environ()
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
	sv := &supervisor{log: opt.Log, started: time.Now(), halt: newHalt(ctx, signals, times)}
	defer sv.halt.close()
	n := &node{supervisor: sv, opt: opt, app: neverRan, results: results{log: opt.Log}}
	defer n.tearDown()
	return n.run()
}

// neverRan stands in a receipt for the exit code of an application that was
// not started.
const neverRan = -1

// node is one run on one node.
type node struct {
	*supervisor
	opt     Options
	self    *nodelocal.Dir // nil until SelfDir has been checked
	cleared chan struct{}  // closed when the leavings of dead runs are away

	job     fsx.Dir // the job's directory
	m       manifest.Manifest
	digest  manifest.Digest
	alloc   allocation
	args    []string // the application's
	flags   manifest.Flags
	rcpts   []age.Recipient
	scripts map[string][]container.Script // by stage
	runtime container.Runtime

	space   *sandbox.Space
	grant   Grant
	tier    manifest.Tier
	dir     nodeDir
	volumes []openVolume // the image first

	output  cipherDir
	scratch cipherDir // in mode runtime
	fuse    []string  // in mode runtime: what the runtime is told to mount
	results results   // in the mounted output volume
	app     int       // exit code, or neverRan
}

func (n *node) run() (int, error) {
	err := n.prepare()
	if err == nil {
		err = n.conclude(n.work())
	}
	if err == nil {
		return n.app, nil
	}
	code := exitOf(err, ExitManifest)
	// An application that failed by itself keeps its code.
	own := errors.Is(err, errMountDied) || errors.Is(err, errLostInput) || code == ExitTimeLimit || code == ExitCancelled
	if n.app > 0 && !own {
		code = n.app
	}
	return code, err
}

// prepare goes as far as a signed statement in a directory of one's own: from
// there on there is a receipt, whatever happens.
func (n *node) prepare() error {
	if err := n.step("manifest", ExitManifest, n.readJob); err != nil {
		return err
	}
	// The namespaces have to be made before the process is undumpable, and no
	// key may be in memory before it is.
	if err := n.step("private space", ExitMount, n.makeSpace); err != nil {
		return err
	}
	return n.step("attestation", ExitAttestation, n.attest)
}

// restrict gives up what a supervisor must not have.
func restrict() error {
	if os.Getuid() == 0 || os.Geteuid() == 0 {
		return errors.New("it does not run as root: jobs run as their user")
	}
	unix.Umask(0o077)
	return harden.NoCoreDumps()
}

// readJob reads what was submitted and compares it with its digests.
func (n *node) readJob(ctx context.Context) (err error) {
	if err := restrict(); err != nil {
		return err
	}
	getenv := func(name string) string { return container.Lookup(n.opt.Environ, name) }
	if getenv("SLURM_JOB_ID") == "" {
		return errors.New("SLURM_JOB_ID is not set: this command is started by the job script, by srun")
	}
	if n.self, err = nodelocal.Own(n.opt.SelfDir); err != nil {
		return err
	}
	if err := n.lockSelf(); err != nil {
		return err
	}
	if n.alloc, err = readAllocation(getenv); err != nil {
		return err
	}
	if err := n.openJob(); err != nil {
		return err
	}
	if err := checkBinaries(n.opt.SelfDir, n.m.Binaries); err != nil {
		return err
	}
	if n.rcpts, err = volume.ParseRecipients(n.m.Recipients); err != nil {
		return fmt.Errorf("recipients of the results: %w", err)
	}
	if n.scripts, err = n.readScripts(); err != nil {
		return err
	}
	if n.runtime, err = container.Find(ctx, n.m.Runtime, n.opt.Environ); err != nil {
		return failed(ExitMount, err)
	}
	return nil
}

// openJob opens the job's directory: from here on, everything in it is reached
// from there.
func (n *node) openJob() (err error) {
	if n.digest, err = manifest.ParseDigest(n.opt.Digest); err != nil {
		return err
	}
	n.job.Root, n.m, err = jobdir.Open(n.opt.JobDir, n.digest)
	return err
}

func (n *node) readScripts() (map[string][]container.Script, error) {
	all := map[string][]container.Script{}
	for stage, refs := range map[string][]manifest.FileRef{jobdir.InputStage: n.m.InputScripts, jobdir.OutputStage: n.m.OutputScripts} {
		data, err := readScripts(n.job, path.Join(jobdir.ScriptsDir, stage), refs)
		if err != nil {
			return nil, err
		}
		list := make([]container.Script, len(refs))
		for i, ref := range refs {
			list[i] = container.Script{Name: ref.Name, Data: data[i]}
		}
		all[stage] = list
	}
	return all, nil
}

// tmpfsBytes is what the private tmpfs has room for besides the scripts.
const tmpfsBytes = 16 << 20

func (n *node) makeSpace(ctx context.Context) (err error) {
	dir := n.self.Path(nodelocal.SpaceName)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	size := int64(tmpfsBytes)
	for _, list := range n.scripts {
		for _, sc := range list {
			size += int64(len(sc.Data)) + 4096
		}
	}
	var why error
	n.space, why, err = sandbox.Open(ctx, sandbox.SpaceOptions{
		Mode: n.opt.Mounts, Dir: dir, Gocryptfs: n.self.Path(jobdir.Gocryptfs), Log: n.log, TmpfsBytes: size,
	})
	if err != nil {
		return fault.New(fault.Other, err, "on such a node, srun sealbatch doctor --node tells more")
	}
	switch mode := n.space.Mode(); {
	case why != nil:
		n.log.Info(fmt.Sprintf("mounts by %v, since %v", mode, why))
	case mode != sandbox.Namespace:
		n.log.Info("mounts by " + mode.String())
	}
	return harden.Undumpable()
}

// mounts is how the volumes reach the container, for the receipt.
func (n *node) mounts() string {
	if n.space == nil {
		return ""
	}
	return n.space.Mode().String()
}

// attest gets the keys and the statement, and makes the node's directory.
func (n *node) attest(ctx context.Context) error {
	src := n.opt.Keys
	if src == nil {
		src = serviceKeys{job: n.job, log: n.log}
	}
	req := KeyRequest{
		Manifest: n.m, Digest: n.digest, Job: n.alloc.job, Node: n.alloc.node, NodeID: n.alloc.nodeID,
	}
	var err error
	if n.grant, err = fetchKeys(ctx, src, req, fetchTime(n.alloc, n.m.SealSeconds), n.log); err != nil {
		return err
	}
	st, err := n.grant.checkStatement(req)
	if err != nil {
		return err
	}
	n.tier = st.Tier
	if err := n.takePrivate(n.grant.Private); err != nil {
		return failed(ExitIntegrity, err)
	}
	if n.dir, err = makeNodeDir(n.job, n.alloc.dirName(), n.grant.Statement); err != nil {
		return failed(ExitManifest, err)
	}
	n.noteDir()
	return nil
}

// takePrivate takes the arguments and flags from the private part, which must
// be the one that the manifest pins.
func (n *node) takePrivate(b []byte) error {
	if manifest.DigestOf(b) != n.m.Private {
		return errors.New("the private part is not the one that the manifest pins")
	}
	p, err := manifest.ParsePrivate(b)
	if err != nil {
		return err
	}
	n.args = p.Args
	n.flags, err = manifest.ParseFlags(p.Flags)
	return err
}

// unmount ends the namespaces and what runs in them. The mounts go with them,
// even where one failed before and an error says so.
func (n *node) unmount() {
	n.results.close()
	if n.space == nil {
		return
	}
	if err := n.space.Close(); err != nil {
		n.log.Warn("a mount did not end in order", "error", terse(err))
	}
	n.space = nil
}

// tearDown leaves nothing behind on the node.
func (n *node) tearDown() {
	n.unmount()
	for _, v := range n.volumes {
		v.close()
	}
	n.grant.wipe()
	n.output.close()
	n.scratch.close()
	closeRoot(n.dir.Root)
	closeRoot(n.job.Root)
	clear(n.grant.Signer)
	if n.self == nil {
		return
	}
	n.awaitCleared()
	if err := n.self.Remove(); err != nil {
		n.log.Warn("node-local directory not removed", "error", err)
	}
}
