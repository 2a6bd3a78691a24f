package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/nodelocal"
	"github.com/sealbatch/sealbatch/internal/text"
)

// Node is a compute node, seen by a process on it, in the environment with which
// jobs begin. It needs no configuration there, and no key.
type Node struct {
	Gocryptfs string         // the program that would travel with a job
	Runtime   string         // the container runtime, as the configuration names it; may be empty
	Setup     []string       // the lines of [supercomputer] setup; none if there is no configuration
	Evidence  evidence.Types // that nodes can make
	Report    Report
	Log       *slog.Logger        // of what is cleared away
	getenv    func(string) string // the environment of a job
}

// Check tries on this node what a job needs, and removes what dead jobs of this
// user left.
func (n Node) Check(ctx context.Context) {
	if err := checkGocryptfs(n.Gocryptfs, ""); err != nil {
		n.Report.failed("gocryptfs", err)
		return
	}
	if os.Geteuid() == 0 {
		n.Report.bad("user", "this is root: jobs run as their user, and so should this", "")
		return
	}
	var err error
	if n.getenv, err = jobEnviron(ctx, n.Setup); err != nil {
		n.Report.bad("[supercomputer] setup", err.Error(), "every job runs these lines first, in bash: put them right")
		return
	}
	if count := nodelocal.Clear(nodelocal.Places("", n.getenv), n.Log); count > 0 {
		n.Report.ok("dead jobs", "what %d of them had left on this node is removed, mounts included", count)
	}
	dir := n.checkPlaces()
	fuse := n.checkFuse()
	if rt, ok := n.checkRuntime(ctx); ok && fuse { // without it, what each mount mode says would mislead
		n.checkModes(ctx, dir, rt)
	}
	n.checkEvidence(ctx)
	n.checkMemory()
}

// checkGocryptfs returns an error if the program is not there; note ends its hint.
func checkGocryptfs(path, note string) error {
	_, err := os.Stat(path)
	return fault.New(fault.Other, err, "put it beside sealbatch, as make build does"+note)
}

// leastFree is what a node-local directory should have free: the programs that
// travel, and the room that they need to work.
const leastFree = 64 << 20

// checkPlaces returns the node-local directory that the job script would take.
func (n Node) checkPlaces() (first string) {
	seen := 0
	for _, base := range nodelocal.Bases(n.getenv) {
		free, err := tryBase(base)
		if errors.Is(err, os.ErrNotExist) {
			continue // there need not be all of them
		}
		seen++
		name := "directory " + base.Name
		if err == nil && base.Dir != base.Name {
			name += " (" + base.Dir + ")"
		}
		switch {
		case err != nil:
			n.Report.warn(name, "jobs pass it over: "+err.Error(), "")
		case first == "":
			first = base.Dir
			n.Report.ok(name, "programs run there, %s are free: jobs take it", text.Size(free))
		}
	}
	if first == "" {
		n.Report.bad("node-local directory", fmt.Sprintf("none of %d can hold and run programs", seen),
			"set TMPDIR in [supercomputer] setup to a directory of the node that is not mounted noexec and not full")
	}
	return first
}

// tryBase makes a directory in a base, as the job script does, runs a program there,
// and returns how many bytes are free.
func tryBase(base nodelocal.Base) (free int64, err error) {
	if base.Err != nil {
		return 0, base.Err
	}
	dir, err := os.MkdirTemp(base.Dir, "doctor.*")
	if err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	err = errors.Join(tryProgram(dir), os.Remove(dir), unix.Statfs(base.Dir, &st))
	free = int64(st.Bavail) * st.Bsize
	if err == nil && free < leastFree {
		err = fmt.Errorf("%s are free, %s are needed", text.Size(free), text.Size(leastFree))
	}
	return free, err
}

// tryProgram runs a script in dir, as the job script does.
func tryProgram(dir string) error {
	try := filepath.Join(dir, nodelocal.TryName)
	if err := os.WriteFile(try, []byte("#!/bin/sh\n"), 0o700); err != nil {
		return err
	}
	err := exec.Command(try).Run()
	if errors.Is(err, os.ErrPermission) {
		err = errors.New("programs cannot be run there (noexec)")
	}
	return errors.Join(err, os.Remove(try))
}

func (n Node) checkFuse() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		n.Report.bad("/dev/fuse", err.Error(),
			"the site has to load the module fuse and let users open /dev/fuse (mode 0666)")
		return false
	}
	_ = f.Close()
	n.Report.ok("/dev/fuse", "can be opened")
	return true
}

func (n Node) checkRuntime(ctx context.Context) (rt container.Runtime, ok bool) {
	var env []string
	for _, name := range []string{"PATH", "USER", "LD_LIBRARY_PATH"} {
		env = append(env, name+"="+n.getenv(name))
	}
	rt, err := container.Find(ctx, n.Runtime, env)
	if err != nil {
		n.Report.bad("container runtime", err.Error(),
			"name its module in [supercomputer] setup, or its path as [supercomputer] runtime")
		return rt, false
	}
	n.Report.ok("container runtime", "%s, %.80s", rt.Path, rt.Version)
	return rt, true
}

// checkEvidence tries, for each type, whether this node can make evidence. One type
// is enough for jobs to run.
func (n Node) checkEvidence(ctx context.Context) {
	for _, name := range slices.Sorted(maps.Keys(n.Evidence)) {
		check := n.Evidence[name].Check
		if check == nil {
			continue
		}
		if detail, err := check.Run(ctx); err != nil {
			n.Report.warn(check.What, err.Error(), fault.Hint(err))
		} else {
			n.Report.ok(check.What, "%s", detail)
		}
	}
}

// maxSwaps bounds /proc/swaps, in bytes.
const maxSwaps = 64 << 10

// checkMemory looks for ways in which memory reaches a disk.
func (n Node) checkMemory() {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err == nil && limit.Max > 0 {
		n.Report.ok("core dumps", "allowed here; jobs forbid them for all that they start")
	}
	f, err := os.Open("/proc/swaps")
	if err != nil {
		return
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSwaps))
	if err == nil && strings.Count(string(b), "\n") > 1 {
		n.Report.warn("swap", "this node can write memory to a disk", "ask the site whether its swap is encrypted")
	}
}
