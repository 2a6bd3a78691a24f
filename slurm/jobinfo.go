package slurm

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sealbatch/sealbatch/internal/hostlist"
	"github.com/sealbatch/sealbatch/internal/sitecmd"
)

// ErrNoJob says that slurmctld does not know the job (any more), or hides it
// from who asks (PrivateData).
var ErrNoJob = errors.New("the job is unknown to Slurm")

// Squeue says how slurmctld is asked.
type Squeue struct {
	Path      string // absolute; empty looks in the usual directories
	SlurmConf string // pinned as SLURM_CONF; empty leaves Slurm's default
}

// JobInfo is what slurmctld says of one job.
type JobInfo struct {
	JobID     uint32
	ArrayTask int64 // -1 outside arrays
	UID       uint32
	State     string // such as RUNNING
	Restart   uint32
	Nodes     hostlist.List // empty while pending
	// Account is whatever the user chose, unless the site enforces
	// associations (AccountingStorageEnforce): a policy that names accounts
	// is worth no more than that.
	Account   string
	Partition string
}

// squeueFields are asked for by name and width. squeue -O writes each field
// right-justified in exactly that many bytes, cuts longer values without a
// mark and separates nothing, so that a record is a fixed number of bytes and
// no value, whatever it holds, can pass for another field or another record.
// (scontrol show job can be forged by a job's name.) Only Account is the
// user's own word; names and comments are never asked for.
var squeueFields = []struct {
	name  string
	width int
}{
	{"JobID", 20}, {"ArrayTaskID", 20}, {"UserID", 20}, {"State", 20}, {"RestartCnt", 20},
	{"Partition", 256}, {"Account", 256}, {"NodeList", 65000},
}

const (
	fieldJobID = iota
	fieldArrayTask
	fieldUser
	fieldState
	fieldRestart
	fieldPartition
	fieldAccount
	fieldNodes
)

// maxSqueueOutput bounds an answer, bytes. Asked for an array by the id of
// its first task, squeue lists every task: some 1000 fit.
const maxSqueueOutput = 64 << 20

// Job asks slurmctld for one job, in any state it still remembers.
// Errors wrap ErrNoJob or sitecmd.ErrFailed.
func (q Squeue) Job(ctx context.Context, jobID uint32) (JobInfo, error) {
	var format []string
	for _, f := range squeueFields {
		format = append(format, fmt.Sprintf("%s:.%d", f.name, f.width))
	}
	env := []string{"TZ=UTC"}
	if q.SlurmConf != "" {
		env = append(env, "SLURM_CONF="+q.SlurmConf)
	}
	out, err := sitecmd.Command{
		Path: q.Path, Name: "squeue", Env: env, MaxOutput: maxSqueueOutput,
		Args: []string{"--noheader", "--states=all", "--jobs=" + strconv.FormatUint(uint64(jobID), 10),
			"--Format=" + strings.Join(format, ",")},
	}.Run(ctx)
	var exit *exec.ExitError
	if errors.As(err, &exit) && strings.Contains(err.Error(), "Invalid job id") {
		return JobInfo{}, fmt.Errorf("%w: %d", ErrNoJob, jobID)
	}
	if err != nil {
		return JobInfo{}, fmt.Errorf("ask Slurm for job %d: %w", jobID, err)
	}
	r, err := findRecord(out, jobID)
	if err != nil {
		return JobInfo{}, err
	}
	j, err := parseRecord(r)
	if err != nil {
		return JobInfo{}, fmt.Errorf("%w: output of squeue for job %d: %w", sitecmd.ErrFailed, jobID, err)
	}
	return j, nil
}

// findRecord cuts b into records and returns the one of jobID.
func findRecord(b []byte, jobID uint32) ([]string, error) {
	size := 1 // the line end
	for _, f := range squeueFields {
		size += f.width
	}
	if len(b)%size != 0 {
		return nil, fmt.Errorf("%w: squeue wrote %d bytes, not records of %d", sitecmd.ErrFailed, len(b), size)
	}
	var found []string
	for r := range slices.Chunk(b, size) {
		if r[size-1] != '\n' {
			return nil, fmt.Errorf("%w: a record of squeue does not end its line", sitecmd.ErrFailed)
		}
		var values []string
		for _, f := range squeueFields {
			values = append(values, string(r[:f.width]))
			r = r[f.width:]
		}
		if strings.TrimLeft(values[fieldJobID], " ") != strconv.FormatUint(uint64(jobID), 10) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w: squeue lists job %d twice", sitecmd.ErrFailed, jobID)
		}
		found = values
	}
	if found == nil {
		return nil, fmt.Errorf("%w: %d", ErrNoJob, jobID)
	}
	return found, nil
}

func parseRecord(r []string) (j JobInfo, err error) {
	for i, v := range r {
		f := squeueFields[i]
		if v[0] != ' ' {
			return j, fmt.Errorf("%s may be cut: it fills its %d bytes", f.name, f.width)
		}
		if !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) {
			return j, fmt.Errorf("%s holds control characters or invalid UTF-8", f.name)
		}
		if r[i] = strings.TrimLeft(v, " "); r[i] == "(null)" {
			r[i] = ""
		}
	}
	number := func(field int) uint32 {
		n, e := strconv.ParseUint(r[field], 10, 32)
		if e != nil && err == nil {
			err = fmt.Errorf("%s is %.40q", squeueFields[field].name, r[field])
		}
		return uint32(n)
	}
	j = JobInfo{JobID: number(fieldJobID), UID: number(fieldUser), Restart: number(fieldRestart), ArrayTask: -1,
		State: r[fieldState], Account: r[fieldAccount], Partition: r[fieldPartition]}
	if r[fieldArrayTask] != "N/A" {
		j.ArrayTask = int64(number(fieldArrayTask))
	}
	if err != nil {
		return j, err
	}
	if r[fieldNodes] != "" {
		if j.Nodes, err = hostlist.Parse(maxNodes, r[fieldNodes]); err != nil {
			return j, fmt.Errorf("NodeList: %w", err)
		}
	}
	return j, nil
}
