package noderun

import (
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func TestReadAllocation(t *testing.T) {
	t.Parallel()
	base := "SLURM_JOB_ID=42 SLURMD_NODENAME=cn1 SLURM_CLUSTER_NAME=c"
	plain := allocation{job: manifest.Job{Cluster: "c", ID: 42, ArrayTask: -1}, node: "cn1"}
	for name, c := range map[string]struct {
		env  string
		want func(a *allocation)
		say  string // of the error
	}{
		"plain":       {base, func(*allocation) {}, ""},
		"array":       {base + " SLURM_ARRAY_TASK_ID=0", nil, "run job-prep once for each"},
		"restart":     {base + " SLURM_RESTART_COUNT=2", func(a *allocation) { a.job.Restart = 2 }, ""},
		"second node": {base + " SLURM_NODEID=1", func(a *allocation) { a.nodeID = 1 }, ""},
		"end": {base + " SLURM_JOB_END_TIME=1700000000",
			func(a *allocation) { a.ends = time.Unix(1700000000, 0) }, ""},
		"a task a node":    {base + " SLURM_STEP_NUM_TASKS=4 SLURM_STEP_NUM_NODES=4", func(*allocation) {}, ""},
		"too many tasks":   {base + " SLURM_STEP_NUM_TASKS=5 SLURM_STEP_NUM_NODES=4", nil, "one task a node"},
		"no node":          {"SLURM_JOB_ID=42", nil, "SLURMD_NODENAME"},
		"node is a path":   {"SLURM_JOB_ID=42 SLURMD_NODENAME=../x", nil, "SLURMD_NODENAME"},
		"job is no number": {"SLURM_JOB_ID=x SLURMD_NODENAME=cn1", nil, "SLURM_JOB_ID"},
		"job too large":    {"SLURM_JOB_ID=4294967296 SLURMD_NODENAME=cn1", nil, "SLURM_JOB_ID"},
		"negative":         {base + " SLURM_RESTART_COUNT=-1", nil, "SLURM_RESTART_COUNT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := strings.Fields(c.env)
			got, err := readAllocation(func(name string) string { return container.Lookup(env, name) })
			if c.want == nil {
				if err == nil || !strings.Contains(err.Error(), c.say) {
					t.Fatalf("%+v, %v; want an error that says %q", got, err, c.say)
				}
				return
			}
			want := plain
			c.want(&want)
			if err != nil || got != want {
				t.Errorf("%+v, %v; want %+v", got, err, want)
			}
		})
	}
}

func TestAllocationNamesAndTimes(t *testing.T) {
	t.Parallel()
	now := time.Unix(1700000000, 0)
	a := allocation{node: "cn1"}
	if a.dirName() != "cn1" || a.left(now) >= 0 {
		t.Errorf("%s, %v left", a.dirName(), a.left(now))
	}
	a.job.Restart, a.ends = 3, now.Add(time.Minute)
	if a.dirName() != "cn1.r3" || a.left(now) != time.Minute {
		t.Errorf("%s, %v left", a.dirName(), a.left(now))
	}
	if left := a.left(now.Add(time.Hour)); left >= 0 {
		t.Errorf("a job past its end has been extended, but %v are left", left)
	}
}
