package main

import (
	"context"
	"log/slog"
	"os"

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
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	var err error
	if o.Mounts, err = sandbox.ParseMode(mounts); err != nil {
		return fault.New(fault.Usage, err, "")
	}
	o.Log = slog.New(ui.NewLogHandler(a.stderr)).With("prefix", "["+os.Getenv("SLURMD_NODENAME")+"] ")
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
