package sandbox

import (
	"context"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Proc is a command that runs inside a Space.
type Proc struct {
	client *client
	id     uint64
	done   chan struct{}
	exit   Exit
}

// Start runs a command inside, in a session and process group of its own,
// without capabilities.
func (s *Space) Start(c Cmd) (*Proc, error) {
	p := &Proc{client: s.client, done: make(chan struct{})}
	_, err := s.client.callFor(context.Background(), p, request{Op: opStart, Cmd: c})
	if err != nil {
		s.client.forgetProc(p)
		return nil, err
	}
	return p, nil
}

// Signal sends sig to the command itself; os.ErrProcessDone after it has ended.
// The rest of its process group is left alone: a container runtime passes the
// signal on to the application, and in its group is the server of its image.
func (p *Proc) Signal(sig syscall.Signal) error {
	_, err := p.client.call(context.Background(), request{Op: opSignal, Proc: p.id, Signal: int(sig)})
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Wait waits for the command itself, not for what it left behind (KillAll).
func (p *Proc) Wait() (Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-p.client.gone:
	}
	select {
	case <-p.done: // both were ready
		return p.exit, nil
	default:
		return Exit{}, ErrClosed
	}
}
