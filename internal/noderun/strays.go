package noderun

import (
	"time"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/nodelocal"
)

// clearStrays begins to remove what dead jobs left in the places of node-local
// directories.
func (a *admitted) clearStrays(places []string) {
	a.cleared = make(chan struct{})
	go func() {
		defer close(a.cleared)
		if count := nodelocal.Clear(places, a.log); count > 0 {
			a.log.Info("removed what killed jobs had left on this node", "jobs", count)
		}
	}()
}

// noteDir notes the node's directory in the lock.
func (g *granted) noteDir() {
	if err := g.self.Note(g.jobPath, g.digest, g.alloc.dirName()); err != nil {
		g.log.Warn("the node's directory is not noted; if this job is killed, its scratch volume stays", "error", terse(err))
	}
	if g.alloc.job.Restart == 0 {
		return
	}
	if err := jobdir.RemoveEarlierScratch(g.jobDir.Root, g.alloc.job.Restart); err != nil {
		g.log.Warn("scratch volumes of the job's earlier runs are not removed", "error", terse(err))
	}
}

// clearPatience is how long the end of a run waits for clearing to be done: the
// next run would go on.
const clearPatience = 10 * time.Second

func (a *admitted) awaitCleared() {
	if a.cleared == nil {
		return
	}
	select {
	case <-a.cleared:
	case <-a.halt.work.Done():
	case <-time.After(clearPatience):
	}
}
