package slurm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// ErrSlurm is wrapped by errors of Slurm's own commands.
var ErrSlurm = fault.Sentinel(fault.Slurm, "a Slurm command failed")

// JobID is a job's number as decimal digits.
type JobID string

var jobIDShape = regexp.MustCompile(`^[1-9][0-9]{0,9}$`)

// ParseJobID checks a job id that a person typed.
func ParseJobID(s string) (JobID, error) {
	if !jobIDShape.MatchString(s) {
		return "", fmt.Errorf("%w: %q is not a job id", ErrSlurm, s)
	}
	return JobID(s), nil
}

// Runner runs a command where Slurm's commands are: on the login node. err is for what kept it from
// running or from ending by itself; a command that ended gives its exit status and a nil err.
type Runner interface {
	Run(ctx context.Context, argv []string, stdin io.Reader) (stdout, stderr []byte, exit int, err error)
}

// Commands are Slurm's commands on a login node. Only fixed words and job ids are ever arguments.
type Commands struct {
	Runner  Runner
	BinDir  string    // directory of the commands; "" means the PATH there
	Notices io.Writer // what commands that succeed write to standard error; nil drops it
}

// Error is a Slurm command that failed. It wraps ErrSlurm.
type Error struct {
	Command string // its name
	Exit    int
	Stderr  string // the end of what it wrote there
}

// Error returns what the command said.
func (e *Error) Error() string {
	said := strings.TrimSpace(e.Stderr)
	if said == "" {
		said = "it said nothing"
	}
	return fmt.Sprintf("%s ended with status %d: %s", e.Command, e.Exit, said)
}

// Unwrap makes errors.Is(err, ErrSlurm) true.
func (e *Error) Unwrap() error { return ErrSlurm }

// failed returns a command's failure, with a hint where one is known.
func failed(e Error) error {
	hint := ""
	if e.Exit == 127 {
		hint = "if Slurm's commands are not in the PATH of a non-interactive login, set [supercomputer] slurm-bin"
	}
	return fault.New(fault.Slurm, &e, hint)
}

// cleared are the variables that would change what a command does behind the script's back: sbatch
// takes SBATCH_* before a script's own options, squeue and sacct filter and format by theirs.
var cleared = map[string][]string{
	"sbatch": {"SBATCH_EXPORT", "SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_INPUT", "SBATCH_REQUEUE",
		"SBATCH_NO_REQUEUE", "SBATCH_SIGNAL", "SBATCH_ARRAY_INX", "SBATCH_JOB_NAME", "SBATCH_TIMELIMIT", "SBATCH_WAIT",
		"SBATCH_GET_USER_ENV", "SBATCH_CLUSTERS", "SLURM_CLUSTERS"},
	"squeue": {"SQUEUE_FORMAT", "SQUEUE_FORMAT2", "SQUEUE_STATES", "SQUEUE_USERS", "SQUEUE_PARTITION", "SQUEUE_ACCOUNT",
		"SQUEUE_NAMES", "SQUEUE_QOS", "SQUEUE_LICENSES", "SQUEUE_SORT", "SQUEUE_ALL", "SQUEUE_ARRAY", "SLURM_CLUSTERS"},
	"sacct":    {"SACCT_FORMAT", "SLURM_CLUSTERS"},
	"scontrol": {"SLURM_CLUSTERS"},
	"scancel": {"SCANCEL_ACCOUNT", "SCANCEL_BATCH", "SCANCEL_CRON", "SCANCEL_CTLD", "SCANCEL_FULL", "SCANCEL_HURRY",
		"SCANCEL_INTERACTIVE", "SCANCEL_NAME", "SCANCEL_PARTITION", "SCANCEL_QOS", "SCANCEL_STATE", "SCANCEL_USER",
		"SCANCEL_VERBOSE", "SCANCEL_WCKEY", "SLURM_CLUSTERS"},
}

// run runs one of Slurm's commands with a clean environment of its own variables.
func (c Commands) run(ctx context.Context, stdin io.Reader, name string, args ...string) ([]byte, error) {
	argv := []string{"env"}
	for _, v := range cleared[name] {
		argv = append(argv, "-u", v)
	}
	argv = append(argv, "SLURM_TIME_FORMAT=%s") // seconds since 1970
	program := name
	if c.BinDir != "" {
		program = path.Join(c.BinDir, name)
	}
	argv = append(append(argv, program), args...)
	stdout, stderr, exit, err := c.Runner.Run(ctx, argv, stdin)
	if err != nil {
		return nil, fmt.Errorf("%s could not be run: %w", name, err)
	}
	if exit != 0 {
		return nil, failed(Error{Command: name, Exit: exit, Stderr: tail(stderr)})
	}
	if c.Notices != nil && len(bytes.TrimSpace(stderr)) > 0 {
		fmt.Fprintln(c.Notices, text.Printable(string(bytes.TrimSpace(stderr)))) // it comes from the other side
	}
	return stdout, nil
}

func tail(b []byte) string {
	const most = 2000
	if b = bytes.TrimSpace(b); len(b) > most {
		b = b[len(b)-most:]
	}
	return string(b)
}

// Submit hands a script to sbatch on its standard input. sbatch's exit status decides whether it
// worked; what it says besides goes to Notices.
func (c Commands) Submit(ctx context.Context, script []byte) (JobID, error) {
	out, err := c.run(ctx, bytes.NewReader(script), "sbatch", "--parsable")
	if err != nil {
		return "", err
	}
	// Sites print greetings before, so the last line counts; "ID;CLUSTER" in a federation.
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	id, _, _ := strings.Cut(strings.TrimSpace(lines[len(lines)-1]), ";")
	if !jobIDShape.MatchString(id) {
		return "", fmt.Errorf("%w: sbatch accepted the job, but said %q instead of its number; look for it with squeue", ErrSlurm, tail(out))
	}
	return JobID(id), nil
}

// Cancel ends a job that waits or runs. Of one that has ended it is no error.
func (c Commands) Cancel(ctx context.Context, id JobID) error {
	if _, err := idArgs([]JobID{id}); err != nil {
		return err
	}
	_, err := c.run(ctx, nil, "scancel", string(id))
	return err
}

// FindByDir looks among the user's own jobs that Slurm remembers for those of dir, a Script's Dir: their comment ends in
// its name, which is random for each run, so that this finds a job whose number got lost.
func (c Commands) FindByDir(ctx context.Context, dir string) ([]JobID, error) {
	const idWidth = 20
	text, err := c.run(ctx, nil, "squeue", "-h", "-a", "--me", "-t", "all", "-O", fmt.Sprintf("JobID:.%d,Comment:.8200", idWidth))
	if err != nil {
		return nil, err
	}
	if len(text) > maxQueue {
		return nil, fmt.Errorf("%w: squeue's answer is longer than %d bytes", ErrSlurm, maxQueue)
	}
	var found []JobID
	for _, line := range strings.Split(string(text), "\n") {
		if len(line) <= idWidth || !marked(strings.TrimSpace(line[idWidth:]), path.Base(dir)) {
			continue
		}
		id, err := ParseJobID(strings.TrimSpace(line[:idWidth]))
		if err != nil {
			return nil, err
		}
		found = append(found, id)
	}
	return found, nil
}

// marked reports whether a comment is a mark, or has one behind the user's own words.
func marked(comment, mark string) bool {
	return comment == mark || strings.HasSuffix(comment, " "+mark)
}

// maxQueue bounds squeue's answer about all of a user's jobs, in bytes.
const maxQueue = 16 << 20

func idArgs(ids []JobID) ([]string, error) {
	if len(ids) == 0 || len(ids) > maxJobs {
		return nil, fmt.Errorf("%w: %d job ids at once", ErrSlurm, len(ids))
	}
	out := make([]string, len(ids))
	for i, id := range ids {
		if !jobIDShape.MatchString(string(id)) {
			return nil, fmt.Errorf("%w: %q is not a job id", ErrSlurm, id)
		}
		out[i] = string(id)
	}
	return out, nil
}
