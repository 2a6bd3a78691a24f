package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	terminal "github.com/sealbatch/sealbatch/internal/text"
)

// maxOutput bounds what a command may write to either stream.
const maxOutput = 16 << 20

// commandTime is how long a command may take: removing a large directory takes its time.
const commandTime = 15 * time.Minute

// limited keeps up to maxOutput bytes and notes if there were more.
type limited struct {
	buf  bytes.Buffer
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	keep := min(len(p), maxOutput-l.buf.Len())
	l.over = l.over || keep < len(p)
	_, _ = l.buf.Write(p[:keep])
	return len(p), nil
}

var errOutput = fmt.Errorf("wrote more than %d bytes", maxOutput)

// Run runs a command on the login node, by whatever login shell the user has there, and takes only what the command
// itself writes for its answer (answer.go). It must not print names or texts that others choose, unless it escapes them:
// they could cut its answer short. A command that ended by itself gives its exit status and a nil error.
// ErrNoCommands if the login node did not run it. When ctx ends, or a limit is reached, so does the wait; the command
// gets SIGTERM if the server passes that on.
func (c *Client) Run(ctx context.Context, argv []string, stdin io.Reader) (stdout, stderr []byte, exit int, err error) {
	if len(argv) == 0 {
		return nil, nil, 0, errors.New("no command to run")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	session, done, err := c.commandSession(ctx)
	if err != nil {
		return nil, nil, 0, err
	}
	mark := newMark()
	r := &running{c: c, s: session, name: argv[0], out: newStream(mark), errs: newStream(mark), ended: make(chan struct{})}
	defer done(r.ended)
	if err := r.start(ctx, shellLine(argv, mark), stdin); err != nil {
		return nil, nil, 0, err
	}
	if err := r.wait(ctx); err != nil {
		return nil, nil, 0, err
	}
	out, errs := r.out.got(), r.errs.got()
	switch sig := syscall.Signal(out.exit - 128); {
	case out.over || errs.over:
		return nil, nil, out.exit, fmt.Errorf("%s: %w", argv[0], errOutput)
	case out.exit > 128 && unix.SignalName(sig) != "":
		return nil, nil, 0, fmt.Errorf("%s was ended by %s", argv[0], unix.SignalName(sig))
	}
	return out.buf, errs.buf, out.exit, nil
}

// running is a command on its way.
type running struct {
	c         *Client
	s         *ssh.Session
	name      string
	out, errs *stream
	ended     chan struct{} // closed when the session has ended, with err
	err       error
}

// start has the login shell run a line. What the command reads is sent only once it runs, so that no start-up
// file can read it.
func (r *running) start(ctx context.Context, line string, stdin io.Reader) error {
	r.s.Stdout, r.s.Stderr = r.out, r.errs
	if stdin != nil {
		in, err := r.s.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			select {
			case <-r.out.begun:
				_, _ = io.Copy(in, stdin) // a command need not read it all
				_ = in.Close()
			case <-ctx.Done():
			}
		}()
	}
	_, err := within(ctx, r.c.timeout, func() (any, error) { return nil, r.s.Start(line) }, func(any) {})
	if err == nil {
		go func() {
			defer close(r.ended)
			r.err = r.s.Wait()
		}()
		return nil
	}
	close(r.ended)
	switch {
	case strings.HasSuffix(err.Error(), " failed"): // how the library says that the request was refused
		return fail(Error{Kind: ErrNoCommands, What: r.c.name + " refuses to run commands", Next: nextNoCommands})
	}
	return r.c.broke(ctx, err, "starts no command")
}

// wait waits for the whole answer.
func (r *running) wait(ctx context.Context) error {
	limit := time.NewTimer(r.c.stall)
	defer limit.Stop()
	begun, out, errs := r.out.begun, r.out.done, r.errs.done
	for out != nil || errs != nil {
		select {
		case <-begun:
			begun = nil
			limit.Reset(commandTime)
		case <-out:
			out = nil
			if r.out.got().over {
				return nil
			}
		case <-errs:
			errs = nil
		case <-r.ended:
			return r.cut(r.err)
		case <-ctx.Done():
			r.terminate()
			return ctx.Err()
		case <-limit.C:
			r.terminate()
			return r.late(begun != nil)
		}
	}
	return nil
}

// terminate asks the login node to end the command, and does not wait for that.
func (r *running) terminate() {
	go func() { _ = r.s.Signal(ssh.SIGTERM) }()
}

// late says that a command did not begin, or did not end.
func (r *running) late(never bool) error {
	if never {
		return fail(Error{Kind: ErrConnect, What: fmt.Sprintf("the login shell on %s ran no command for %v%s",
			r.c.name, r.c.stall, said(r.out.got().noise, r.errs.got().noise)),
			Next: "a start-up file there (.bashrc, .cshrc, ...) may hang or wait for an answer: does `ssh " + r.c.name + " true` end?"})
	}
	return fail(Error{Kind: ErrConnect, What: fmt.Sprintf("%s has not ended for %v on %s", r.name, commandTime, r.c.name),
		Next: "its file systems or Slurm may hang: run the same command again when they answer"})
}

const nextNoCommands = "its account may be for file transfer only: name a login node, on which sbatch runs, as [supercomputer] address"

// cut says why a session ended with err before there was a whole answer, if so.
func (r *running) cut(err error) error {
	out, errs := r.out.got(), r.errs.got()
	var status *ssh.ExitError
	switch ended := errors.As(err, &status); {
	case out.ended && errs.ended || out.over || errs.over:
		return nil
	case err != nil && !ended:
		return fail(Error{Kind: ErrConnect, What: "the connection to the login node broke while it ran " + r.name, Err: err})
	case ended && status.Signal() != "":
		return fmt.Errorf("%s was ended by SIG%s", r.name, status.Signal())
	case out.begun:
		return fmt.Errorf("the login shell on %s was ended while it ran %s", r.c.name, r.name)
	}
	code := 0
	if status != nil {
		code = status.ExitStatus()
	}
	what, next := said(out.noise, errs.noise), "a start-up file there (.bashrc, .cshrc, ...) may end it where there is no terminal: "+
		"does `ssh "+r.c.name+" true` work?"
	if strings.Contains(strings.ToLower(what), "sftp") {
		return fail(Error{Kind: ErrNoCommands, What: r.c.name + " runs no commands" + what, Next: nextNoCommands})
	}
	return fail(Error{Kind: ErrNoCommands, Next: next + " Else " + nextNoCommands,
		What: fmt.Sprintf("the login shell on %s ended with status %d before it ran a command%s", r.c.name, code, what)})
}

// said quotes what came instead of an answer.
func said(noise ...[]byte) string {
	var words []string
	for _, n := range noise {
		if s := strings.Join(strings.Fields(terminal.Printable(strings.TrimSpace(string(n)))), " "); s != "" {
			words = append(words, s)
		}
	}
	if len(words) == 0 {
		return ", and said nothing"
	}
	return fmt.Sprintf("; it said: %.300s", strings.Join(words, " / "))
}

// Run runs a command on this machine, without a shell; see Client.Run.
func (Local) Run(ctx context.Context, argv []string, stdin io.Reader) (stdout, stderr []byte, exit int, err error) {
	if len(argv) == 0 {
		return nil, nil, 0, errors.New("no command to run")
	}
	var out, errOut limited
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, nil, 0, ctx.Err()
	case errors.As(err, &ended) && ended.Exited():
		exit, err = ended.ExitCode(), nil
	case err != nil:
		return nil, nil, 0, fmt.Errorf("%s: %w", argv[0], err)
	}
	if out.over || errOut.over {
		return nil, nil, exit, fmt.Errorf("%s: %w", argv[0], errOutput)
	}
	return out.buf.Bytes(), errOut.buf.Bytes(), exit, err
}
