package noderun

import (
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/nodelocal"
)

// lockSelf takes the lock and starts to clear away what others left.
func (n *node) lockSelf() error {
	if err := n.self.Lock(); err != nil {
		return fmt.Errorf("lock the job's own directory: %w", terse(err))
	}
	n.cleared = make(chan struct{})
	go func() {
		defer close(n.cleared)
		places := nodelocal.Places(n.opt.SelfDir, func(name string) string { return container.Lookup(n.opt.Environ, name) })
		if count := nodelocal.Clear(places, n.log); count > 0 {
			n.log.Info("removed what killed jobs had left on this node", "jobs", count)
		}
	}()
	return nil
}

// noteDir notes the node's directory in the lock.
func (n *node) noteDir() {
	if err := n.self.Note(n.opt.JobDir, n.digest, n.alloc.dirName()); err != nil {
		n.log.Warn("the node's directory is not noted; if this job is killed, its scratch volume stays", "error", terse(err))
	}
	if n.alloc.job.Restart == 0 {
		return
	}
	if err := jobdir.RemoveEarlierScratch(n.job.Root, n.alloc.job.Restart); err != nil {
		n.log.Warn("scratch volumes of the job's earlier runs are not removed", "error", terse(err))
	}
}

// clearPatience is how long the end of a run waits for clearing to be done: the
// next run would go on.
const clearPatience = 10 * time.Second

func (n *node) awaitCleared() {
	if n.cleared == nil {
		return
	}
	select {
	case <-n.cleared:
	case <-n.halt.work.Done():
	case <-time.After(clearPatience):
	}
}
