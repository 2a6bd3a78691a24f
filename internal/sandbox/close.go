package sandbox

import (
	"context"
	"errors"
	"slices"
	"time"
)

// KillAll kills every process inside and returns when they are gone, and with
// them what the container runtime had mounted.
func (s *Space) KillAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*s.limit)
	defer cancel()
	_, err := s.client.call(ctx, request{Op: opKillAll, Limit: s.limit})
	return errors.Join(err, s.awaitServed())
}

// Close kills every process inside, unmounts everything, waits for the FUSE
// servers to end, and ends the child. Further calls return the same.
func (s *Space) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Space) close() error {
	s.mu.Lock()
	s.closed = true
	mounts := slices.Clone(s.mounts)
	s.mu.Unlock()
	var errs []error
	if s.listener != nil {
		errs = append(errs, s.listener.Close())
	}
	if s.client.alive() {
		errs = append(errs, s.KillAll())
		for i := len(mounts) - 1; i >= 0; i-- {
			if err := s.unmount(mounts[i], false); err != nil {
				errs = append(errs, s.unmount(mounts[i], true))
			}
		}
	}
	s.client.wire.conn.Close()
	errs = append(errs, s.endChild(mounts))
	if s.opt.Mode != Namespace { // the child has done it unless it was killed
		errs = append(errs, clearDir(s.opt.helper, s.opt.Dir))
	}
	// With the child, its mounts are gone, whatever went wrong above.
	for _, m := range mounts {
		errs = append(errs, m.waitEnd(s.limit))
	}
	s.thread.close()
	return errors.Join(errs...)
}

// endChild waits for the child, which has been told to end. It cannot end before
// all processes in its namespace have, and those not while they wait for an
// answer from a server that hangs: then the servers have to go first.
func (s *Space) endChild(mounts []*mounted) error {
	for _, force := range []func(){
		func() {},
		func() { s.child.Process.Kill() },
		func() {
			for _, m := range mounts {
				m.server.kill()
			}
		},
	} {
		force()
		select {
		case <-s.client.gone:
			return nil
		case <-time.After(s.limit):
		}
	}
	return errors.New("the process that holds the private mounts does not end")
}
