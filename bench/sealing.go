package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"time"
)

// What memory is noted of.
const (
	memorySeal = "seal 1.3 GB"
	memoryData = "mount of 1.3 GB, whatever was read"
	memoryWide = "mount of 100,000 files, find"
)

// sealing compares ways to make one encrypted file of a directory.
func (b *bench) sealing(ctx context.Context) error {
	d := &b.data
	out := b.path("made")
	into := func(line string) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) {
			defer os.Remove(out)
			begin := time.Now()
			err := b.pipe(ctx, line+" > "+out)
			return time.Since(begin), err
		}
	}
	return b.contests(ctx, "Sealing a directory into one file",
		contest{what: "seal", ours: contender{run: b.seal}, rest: []contender{
			{"HPCS: tar.gz, then age", 10, b.hpcsPrepare},
			{"gocryptfs -reverse, tar", 5, b.reverseTar},
			{"tar, age", 0, into("tar -C " + d.tree + " -c . | age -r " + b.recipient)},
			{"tar, not encrypted", 0, into("tar -C " + d.tree + " -c .")},
		}})
}

func (b *bench) seal(ctx context.Context) (time.Duration, error) {
	out := b.path("made.sealed")
	defer os.Remove(out)
	cmd := exec.CommandContext(ctx, b.sealbatch(), "seal", b.data.tree, "-o", out, "-r", b.recipient)
	cmd.Stderr = b.log
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	peak := make(chan float64)
	go func() { peak <- watchMemory(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	took := time.Since(begin)
	close(ended)
	b.memory[memorySeal] = append(b.memory[memorySeal], <-peak)
	return took, err
}

// watchMemory looks until the process has ended. (What getrusage(2) tells of it
// later is not less than what its parent had.)
func watchMemory(pid int, ended <-chan struct{}) (most float64) {
	for {
		most = max(most, peakMemory(pid))
		select {
		case <-ended:
			return most
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// reverseTar has tar read gocryptfs's encrypted view; making the view, with its
// slow password, does not count.
func (b *bench) reverseTar(ctx context.Context) (took time.Duration, err error) {
	conf, out := b.path("reverse.conf"), b.path("made.tar")
	defer os.Remove(out)
	defer os.Remove(conf)
	if _, err := b.command(ctx, "gocryptfs", "-q", "-reverse", "-init", "-scryptn", "10", "-config", conf, "-passfile",
		b.data.password, b.data.tree); err != nil {
		return 0, err
	}
	m, err := b.start(ctx, func(dir string) []string {
		return []string{"gocryptfs", "-q", "-fg", "-reverse", "-config", conf, "-passfile", b.data.password, b.data.tree, dir}
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	return b.timed(ctx, "tar", "-C", m.dir, "-cf", out, ".")
}
