package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/noderun"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// runNode is what the batch script starts on every node.
func runNode(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch node-run", "Run one node of a job. The batch script calls it; people do not.", "", `
sealbatch node-run --job-dir /scratch/.../sealbatch-... --digest sha256:... --self /tmp/sealbatch.X`)
	var o noderun.Options
	f.String(&o.JobDir, "the job's directory on the shared storage", []string{"job-dir"}, ui.Required)
	f.Word(&o.Digest, "digest of its manifest", []string{"digest"}, ui.Required)
	f.String(&o.SelfDir, "private directory of this node with the job's own copies of the programs", []string{"self"}, ui.Required)
	var mounts string
	f.Word(&mounts, "mount mode: auto, namespace, fusermount or runtime", []string{"mounts"})
	if err := a.parse(f, args); err != nil {
		return err
	}
	var err error
	if o.Mounts, err = sandbox.ParseMode(mounts); err != nil {
		return fault.New(fault.Usage, err, "")
	}
	o.Log = slog.New(ui.NewLogHandler(a.stderr)).With("prefix", "["+os.Getenv("SLURMD_NODENAME")+"] ")
	if o.Input, err = takeInput(a.stdin); err != nil {
		return err
	}
	code, err := noderun.Run(ctx, o)
	if err != nil {
		o.Log.Error(err.Error())
		if h := fault.Hint(err); h != "" {
			o.Log.Info("hint: " + h)
		}
	}
	if code != 0 {
		return exitStatus(code)
	}
	return nil
}

// takeInput moves standard input to a descriptor that no other program inherits, and
// leaves the null device in its place.
func takeInput(stdin *os.File) (io.ReadCloser, error) {
	fd, err := unix.FcntlInt(stdin.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), int(stdin.Fd()), 0); err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	// So that closing it ends a read of it (package os).
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	return os.NewFile(uintptr(fd), "standard input"), nil
}
