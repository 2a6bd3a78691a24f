package noderun

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/nodelocal"
)

// clearEarlier removes the scratch volumes of a job's earlier runs: that Slurm
// has started it again says that they are over on every node.
func clearEarlier(jobDir string, restart uint32) error {
	entries, err := os.ReadDir(filepath.Join(jobDir, jobdir.NodesDir))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if jobdir.Restart(e.Name()) < restart {
			errs = append(errs, nodelocal.ClearScratch(filepath.Join(jobDir, jobdir.NodesDir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

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
	if err := n.self.Note(string(n.dir)); err != nil {
		n.log.Warn("the node's directory is not noted; if this job is killed, its scratch volume stays", "error", terse(err))
	}
	if n.alloc.job.Restart == 0 {
		return
	}
	if err := clearEarlier(n.m.JobDir, n.alloc.job.Restart); err != nil {
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
