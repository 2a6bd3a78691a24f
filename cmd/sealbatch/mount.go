package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sealbatch/sealbatch/fusefs"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/output"
	"github.com/sealbatch/sealbatch/internal/ui"
)

func runMount(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch mount", "Mount a sealed volume read-only, until Ctrl-C or an unmount.", "FILE DIR", `
sealbatch mount genomes.sealed /mnt/genomes -i ~/.ssh/id_ed25519
fusermount3 -u /mnt/genomes`)
	var how opening
	how.add(f)
	if err := a.parse(f, args); err != nil {
		return err
	}
	if len(f.Args()) != 2 {
		return usageError("sealbatch mount: FILE and DIR are needed", "sealbatch mount --help shows an example")
	}
	file, dir := f.Args()[0], f.Args()[1]
	if err := output.Named(dir); err != nil {
		return fmt.Errorf("mount on a directory: %w", err)
	}
	// A reader of the notices that goes away must not end this by a signal, which would leave a dead mount.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	r, err := openWith(a, file, how)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer r.Close()
	s, err := fusefs.Mount(dir, r, fusefs.MountOptions{Log: a.log})
	if err != nil {
		return fault.New(fault.Other, fmt.Errorf("mount %s: %w", file, err), orHint(err,
			"as an ordinary user this needs /dev/fuse, fusermount3 (package fuse3) and a directory of your own"))
	}
	fmt.Fprintf(a.stderr, "%s is mounted on %s; Ctrl-C unmounts it\n", file, dir)
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if err := s.Unmount(); err != nil {
		if err := s.Detach(); err != nil {
			a.log.Warn(fmt.Sprintf("%s stays mounted, and nothing serves it any more: %v", dir, err))
			return fault.New(fault.Other, fmt.Errorf("unmount %s: %w", dir, errors.Join(err, ctx.Err())),
				"unmount what lies over it, if anything does; then fusermount3 -u "+dir)
		}
		a.log.Warn(dir + " is still in use: it is no longer mounted there, and served until the last program has let go of it; " +
			"Ctrl-C ends that at once")
	}
	return <-ended
}
