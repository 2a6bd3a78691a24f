package noderun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

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

// job is what was submitted, each part compared with its digest, and where Slurm
// runs it.
type job struct {
	jobDir   fsx.Dir // on the shared storage
	jobPath  string  // by which jobDir was opened
	manifest manifest.Manifest
	digest   manifest.Digest
	alloc    allocation
	rcpts    []age.Recipient               // of the results
	scripts  map[string][]container.Script // by stage
	runtime  container.Runtime
	environ  []string
}

// admitted is a job with a private space on a node where it can run.
type admitted struct {
	*supervisor
	job
	self    *nodelocal.Dir // nil if it is not this run's own
	cleared chan struct{}  // closed when what dead runs left is removed
	space   *sandbox.Space // nil if there is none, or no longer
}

// admit reads the job and makes its private space. What it returns is to be torn
// down, error or not.
func (s *supervisor) admit(opt Options) (*admitted, error) {
	a := &admitted{supervisor: s}
	err := s.step("manifest", ExitManifest, func(ctx context.Context) error { return a.read(ctx, opt) })
	if err != nil {
		return a, err
	}
	// The namespaces have to be made before the process is undumpable, and no
	// key may be in memory before it is.
	return a, s.step("private space", ExitMount, func(ctx context.Context) error { return a.makeSpace(ctx, opt.Mounts) })
}

// restrict gives up, for good, what a supervisor must not have.
func restrict() error {
	if os.Getuid() == 0 || os.Geteuid() == 0 {
		return errors.New("it does not run as root: jobs run as their user")
	}
	unix.Umask(0o077)
	return harden.NoCoreDumps()
}

// read takes the node-local directory and reads the job.
func (a *admitted) read(ctx context.Context, opt Options) (err error) {
	if err := restrict(); err != nil {
		return err
	}
	getenv := func(name string) string { return container.Lookup(opt.Environ, name) }
	if getenv("SLURM_JOB_ID") == "" {
		return errors.New("SLURM_JOB_ID is not set: this command is started by the job script, by srun")
	}
	if a.self, err = nodelocal.Own(opt.SelfDir); err != nil {
		return err
	}
	if err := a.self.Lock(); err != nil {
		return fmt.Errorf("lock the job's own directory: %w", terse(err))
	}
	a.clearStrays(nodelocal.Places(opt.SelfDir, getenv))
	a.job, err = readJob(ctx, opt, getenv)
	return err
}

// readJob reads what was submitted and compares it with its digests.
func readJob(ctx context.Context, opt Options, getenv func(string) string) (j job, err error) {
	j.environ = opt.Environ
	if j.alloc, err = readAllocation(getenv); err != nil {
		return j, err
	}
	if err := j.open(opt); err != nil {
		return j, err
	}
	if err := checkBinaries(opt.SelfDir, j.manifest.Binaries); err != nil {
		return j, err
	}
	if j.rcpts, err = volume.ParseRecipients(j.manifest.Recipients); err != nil {
		return j, fmt.Errorf("recipients of the results: %w", err)
	}
	if j.scripts, err = j.readStages(); err != nil {
		return j, err
	}
	if j.runtime, err = container.Find(ctx, j.manifest.Runtime, opt.Environ); err != nil {
		return j, failed(ExitMount, err)
	}
	return j, nil
}

// open opens the job's directory: from here on, everything in it is reached from
// there.
func (j *job) open(opt Options) (err error) {
	if j.digest, err = manifest.ParseDigest(opt.Digest); err != nil {
		return err
	}
	j.jobPath = opt.JobDir
	j.jobDir.Root, j.manifest, err = jobdir.Open(opt.JobDir, j.digest)
	return err
}

// readStages reads the verification scripts of each stage.
func (j *job) readStages() (map[string][]container.Script, error) {
	all := map[string][]container.Script{}
	for stage, refs := range map[string][]manifest.FileRef{
		jobdir.InputStage: j.manifest.InputScripts, jobdir.OutputStage: j.manifest.OutputScripts,
	} {
		data, err := readScripts(j.jobDir, path.Join(jobdir.ScriptsDir, stage), refs)
		if err != nil {
			return nil, err
		}
		list := make([]container.Script, len(refs))
		for i, ref := range refs {
			list[i] = container.Script{FileRef: ref, Data: data[i]}
		}
		all[stage] = list
	}
	return all, nil
}

// tmpfsBytes is what the private tmpfs has room for besides the scripts.
const tmpfsBytes = 16 << 20

func (a *admitted) makeSpace(ctx context.Context, mode sandbox.Mode) (err error) {
	dir := a.self.Path(nodelocal.SpaceName)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	size := int64(tmpfsBytes)
	for _, list := range a.scripts {
		for _, sc := range list {
			size += int64(len(sc.Data)) + 4096
		}
	}
	var why error
	a.space, why, err = sandbox.Open(ctx, sandbox.SpaceOptions{
		Mode: mode, Dir: dir, Gocryptfs: a.self.Path(jobdir.Gocryptfs), Log: a.log, TmpfsBytes: size,
	})
	if err != nil {
		return fault.New(fault.Other, err, "on such a node, srun sealbatch doctor --node tells more")
	}
	switch mode := a.space.Mode(); {
	case why != nil:
		a.log.Info(fmt.Sprintf("mounts by %v, since %v", mode, why))
	case mode != sandbox.Namespace:
		a.log.Info("mounts by " + mode.String())
	}
	return harden.Undumpable()
}

// mounts returns the mount mode, for the receipt; "" if there is no space any more.
func (a *admitted) mounts() string {
	if a.space == nil {
		return ""
	}
	return a.space.Mode().String()
}

// closeSpace ends the namespaces and what runs in them. The mounts go with them,
// even where one failed before and an error says so.
func (a *admitted) closeSpace() {
	if a.space == nil {
		return
	}
	if err := a.space.Close(); err != nil {
		a.log.Warn("a mount did not end in order", "error", terse(err))
	}
	a.space = nil
}

// tearDown leaves nothing behind on the node.
func (a *admitted) tearDown() {
	a.closeSpace()
	closeRoot(a.jobDir.Root)
	if a.self == nil {
		return
	}
	a.awaitCleared()
	if err := a.self.Remove(); err != nil {
		a.log.Warn("node-local directory not removed", "error", err)
	}
}
