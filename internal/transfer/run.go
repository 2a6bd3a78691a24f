package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/shellwords"
)

// maxOutput bounds what a command may write to either stream.
const maxOutput = 16 << 20

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

// Run runs a command on the login node, each word quoted for the login shell that sshd hands it to.
// A command that ended by itself gives its exit status and a nil error. When ctx ends, so does the
// wait; the command gets SIGTERM if the server passes that on.
func (c *Client) Run(ctx context.Context, argv []string, stdin io.Reader) (stdout, stderr []byte, exit int, err error) {
	if len(argv) == 0 {
		return nil, nil, 0, errors.New("no command to run")
	}
	session, err := c.conn.NewSession()
	if err != nil {
		return nil, nil, 0, fail(Error{Kind: ErrConnect, What: "the connection to the login node is lost", Err: err})
	}
	defer session.Close()
	var out, errOut limited
	session.Stdout, session.Stderr, session.Stdin = &out, &errOut, stdin
	done := make(chan error, 1)
	go func() { done <- session.Run(shellwords.QuoteArgs(argv...)) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = session.Signal(ssh.SIGTERM)
		return nil, nil, 0, ctx.Err()
	}
	var ended *ssh.ExitError
	switch {
	case errors.As(err, &ended) && ended.Signal() != "":
		return nil, nil, 0, fmt.Errorf("%s was ended by SIG%s", argv[0], ended.Signal())
	case errors.As(err, &ended):
		exit, err = ended.ExitStatus(), nil
	case err != nil:
		return nil, nil, 0, fail(Error{Kind: ErrConnect, What: "the connection to the login node broke while it ran " + argv[0], Err: err})
	}
	if out.over || errOut.over {
		return nil, nil, exit, fmt.Errorf("%s: %w", argv[0], errOutput)
	}
	return out.buf.Bytes(), errOut.buf.Bytes(), exit, err
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
