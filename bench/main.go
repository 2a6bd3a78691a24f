// Command bench measures sealed volumes beside what people use instead, in one
// run on the same data, and prints Markdown tables. docs/performance.md tells
// what is measured and how. It needs root (caches are dropped), age,
// gocryptfs, rclone, OpenSSH, tar, and python3-scp for HPCS's own steps.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// options is what the flags say.
type options struct {
	bin   string         // directory with the program sealbatch
	dir   string         // where data and volumes go; about 8 GiB at full scale
	runs  int            // rounds of each contest
	scale float64        // of the data: 1 is what docs/performance.md speaks of
	only  *regexp.Regexp // the rows to measure
	skip  *regexp.Regexp // the peers to leave out; nil leaves out none

	cluster string // the program testcluster/cluster, which knows an Apptainer
	images  bool   // measure container images alone
}

func main() {
	if is, err := helper(os.Args[1:]); is {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	only, skip := "", ""
	flag.StringVar(&o.bin, "bin", "bin", "directory with the program sealbatch")
	flag.StringVar(&o.dir, "dir", "/dev/shm", "where to put data and volumes: a tmpfs, with about 8 GiB free")
	flag.IntVar(&o.runs, "runs", 5, "rounds of each contest")
	flag.Float64Var(&o.scale, "scale", 1, "size of the data, 1 for what docs/performance.md speaks of")
	flag.StringVar(&only, "only", "", "measure the rows whose names match this regular expression")
	flag.StringVar(&skip, "skip", "",
		"leave out the peers whose names match this regular expression, such as HPCS, which takes most of the time")
	flag.StringVar(&o.cluster, "cluster", "testcluster/cluster", "the test cluster's program, whose Apptainer is measured")
	flag.BoolVar(&o.images, "images", false, "measure container images alone: no other data is made")
	flag.Parse()
	var err error
	if skip != "" {
		o.skip, err = regexp.Compile(skip)
	}
	if err == nil {
		o.only, err = regexp.Compile(only)
	}
	if err == nil {
		err = run(ctx, o, os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// helper does what this program starts itself for.
func helper(args []string) (is bool, err error) {
	switch {
	case len(args) == 3 && args[0] == zerosCommand:
		return true, serveZeros(args[1], args[2])
	case len(args) == 3 && args[0] == slowCommand:
		return true, serveSlow(args[1], args[2])
	case len(args) == 3 && args[0] == convertCommand:
		return true, convertImage(context.Background(), args[1], args[2])
	case len(args) == 4 && args[0] == prepareCommand:
		return true, prepareImage(context.Background(), args[1], args[2], args[3])
	case len(args) == 1 && args[0] == readCommand:
		return true, serveRead(os.Stdin, os.Stdout)
	}
	return false, nil
}

// bench is one run of the program.
type bench struct {
	options
	root      string // everything that is made lies below, and goes with it
	out, log  io.Writer
	identity  string // file with an age identity, the owner's
	recipient string
	data      data
	hpcs      hpcsState
	ssh       sshd
	rootfs    string // of the test cluster's hosts
	app       apptainer
	memory    map[string][]float64 // peak MB of resident memory, by what was done
	undo      []func() error
}

// run makes the data, measures, prints, and removes everything.
func run(ctx context.Context, o options, out, log io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("this needs root: caches are dropped, and sshd is run")
	}
	b := &bench{options: o, out: out, log: log, memory: map[string][]float64{}}
	if b.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	if b.root, err = os.MkdirTemp(o.dir, "sealbatch-bench-"); err != nil {
		return err
	}
	defer func() {
		for i := range b.undo {
			err = errors.Join(err, b.undo[len(b.undo)-1-i]())
		}
		err = errors.Join(err, os.RemoveAll(b.root))
	}()
	begin := time.Now()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s; %d rounds; load %s at the begin\n", describe(), b.runs, loadavg())
	parts := []func(context.Context) error{b.probes, b.sealing, b.reading, b.readingSlowly, b.opening, b.shipping, b.node, b.sizes,
		b.imaging}
	if o.images {
		parts = []func(context.Context) error{b.imaging}
	}
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\nload %s at the end, after %s\n", loadavg(), time.Since(begin).Round(time.Second))
	return nil
}

// prepare makes the owner's key, the data and the volumes of both kinds.
func (b *bench) prepare(ctx context.Context) error {
	b.identity = b.path("identity")
	if _, err := b.command(ctx, "age-keygen", "-o", b.identity); err != nil {
		return err
	}
	out, err := b.command(ctx, "age-keygen", "-y", b.identity)
	if err != nil {
		return err
	}
	b.recipient = strings.TrimSpace(out)
	if b.images {
		return nil
	}
	b.say("making the data")
	return b.makeData(ctx)
}

// path returns a name in the run's directory.
func (b *bench) path(name string) string { return filepath.Join(b.root, name) }

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.log, format+"\n", args...) }

// command runs a program to its end and returns its standard output.
func (b *bench) command(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", argv[0], err, stderr.String())
	}
	return stdout.String(), nil
}

// timed is command, and how long it took.
func (b *bench) timed(ctx context.Context, argv ...string) (time.Duration, error) {
	begin := time.Now()
	_, err := b.command(ctx, argv...)
	return time.Since(begin), err
}

// sealbatch returns the program's path.
func (b *bench) sealbatch() string { return filepath.Join(b.bin, "sealbatch") }

// describe names processor, cores and kernel.
func describe() string {
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %d cores, Linux %s", model, strings.Count(string(info), "\nmodel name"), strings.TrimSpace(string(release)))
}

func loadavg() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(b))[:1], " ")
}
