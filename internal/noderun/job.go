package noderun

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/names"
)

// allocation is what Slurm tells a task of its job. Nothing in it is trusted:
// the claim that is made of it has to be proven.
type allocation struct {
	job    manifest.Job
	node   string
	nodeID int
	ends   time.Time // of the job, by its time limit; zero if not told
}

// readAllocation reads Slurm's variables (srun(1), OUTPUT ENVIRONMENT VARIABLES).
func readAllocation(getenv func(string) string) (allocation, error) {
	e := envReader{getenv: getenv}
	a := allocation{
		node:   getenv("SLURMD_NODENAME"),
		nodeID: int(e.number("SLURM_NODEID", math.MaxUint16, 0)),
		job: manifest.Job{
			Cluster:   getenv("SLURM_CLUSTER_NAME"),
			ID:        uint32(e.number("SLURM_JOB_ID", math.MaxUint32, 0)),
			ArrayTask: e.number("SLURM_ARRAY_TASK_ID", math.MaxUint32, -1),
			Restart:   uint32(e.number("SLURM_RESTART_COUNT", math.MaxUint32, 0)),
		},
	}
	tasks, nodes := e.number("SLURM_STEP_NUM_TASKS", math.MaxUint32, 1), e.number("SLURM_STEP_NUM_NODES", math.MaxUint16, 1)
	if end := e.number("SLURM_JOB_END_TIME", math.MaxUint32, 0); end > 0 {
		a.ends = time.Unix(end, 0)
	}
	switch {
	case e.err != nil:
		return allocation{}, e.err
	case a.job.ArrayTask >= 0: // its tasks would have one directory and one release between them
		return allocation{}, fmt.Errorf("task %d of a job array: "+
			"keys are released to one job of a submission; run job-prep once for each", a.job.ArrayTask)
	case !names.Node(a.node):
		return allocation{}, fmt.Errorf("SLURMD_NODENAME %.80q is not a node name", a.node)
	case tasks > nodes:
		return allocation{}, fmt.Errorf("%d tasks on %d nodes: "+
			"each node runs the application once, so submit with one task a node", tasks, nodes)
	}
	return a, nil
}

// envReader keeps the first error of reading several numbers.
type envReader struct {
	getenv func(string) string
	err    error
}

// number reads a variable from 0 to limit, missing if it is not set.
func (e *envReader) number(name string, limit, missing int64) int64 {
	s := e.getenv(name)
	if s == "" {
		return missing
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if (err != nil || n < 0 || n > limit) && e.err == nil {
		e.err = fmt.Errorf("%s=%.40q is not a number from 0 to %d", name, s, limit)
	}
	return n
}

// left returns the time until the job's end as Slurm told it, negative if unknown.
// A job that outlives that end has been extended: unknown again.
func (a allocation) left(now time.Time) time.Duration {
	if a.ends.IsZero() || now.After(a.ends) {
		return -1
	}
	return a.ends.Sub(now)
}

// dirName returns the name of this run's directory below JobDir/nodes.
func (a allocation) dirName() string { return jobdir.NodeName(a.node, a.job.Restart) }
