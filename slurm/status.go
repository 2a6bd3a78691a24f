package slurm

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/hostlist"
)

// State is a job's state, as Slurm spells it.
type State string

// The states that matter here; Slurm has more.
const (
	Unknown     State = "UNKNOWN" // Slurm has no answer: too early, forgotten, or down
	Pending     State = "PENDING"
	Running     State = "RUNNING"
	Completing  State = "COMPLETING"
	Completed   State = "COMPLETED"
	Failed      State = "FAILED"
	Cancelled   State = "CANCELLED"
	Timeout     State = "TIMEOUT"
	OutOfMemory State = "OUT_OF_MEMORY"
	NodeFail    State = "NODE_FAIL"
)

// Ended reports whether a job in this state never runs again. Unknown has not ended.
func (s State) Ended() bool {
	switch s {
	case Completed, Failed, Cancelled, Timeout, OutOfMemory, NodeFail, "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED",
		"LAUNCH_FAILED", "RECONFIG_FAIL":
		return true
	}
	return false
}

// Status is what Slurm says about a job.
type Status struct {
	State    State
	Reason   string    // why it waits or ended; "" if Slurm gives none
	NodeList string    // host list; "" while it waits
	ExitCode int       // of the batch script; -1 until it has one
	Signal   int       // that ended the batch script, or a number of Slurm's own (ScriptExit); 0 if none
	By       string    // uid of who cancelled it, where accounting says so
	Start    time.Time // zero if unknown; expected, while it waits
}

const (
	maxJobs   = 200     // ids in one query
	maxAnswer = 8 << 20 // bytes of an answer
)

// columns are the fields of squeue -O with their widths. Without a width Slurm cuts at 20 characters.
// None of them holds text that a user controls.
var columns = []struct {
	name  string
	width int
}{{"JobID", 20}, {"State", 24}, {"exit_code", 16}, {"StartTime", 25}, {"Reason", 128}, {"NodeList", 16384}}

// Status asks about jobs, all in one query. It asks squeue, which knows why jobs wait and remembers
// them for a while (MinJobAge), and sacct about the rest, where the site has accounting. Every id is
// in the answer: jobs that neither knows are Unknown, which says nothing about how they ended. An
// error means that Slurm could not be asked at all. Of jobs that squeue does not know, accounting is believed only how
// they ended: where it missed that, it says for ever that they run.
func (c Commands) Status(ctx context.Context, ids []JobID) (map[JobID]Status, error) {
	if _, err := idArgs(ids); err != nil {
		return nil, err
	}
	out := make(map[JobID]Status, len(ids))
	queueErr := c.squeue(ctx, ids, out)
	var rest []JobID
	for _, id := range ids {
		if _, ok := out[id]; !ok {
			rest = append(rest, id)
		}
	}
	if len(rest) == 0 {
		return out, nil
	}
	accountErr := c.sacct(ctx, rest, out)
	if queueErr != nil && accountErr != nil {
		return nil, queueErr
	}
	for _, id := range rest {
		if s, ok := out[id]; !ok || queueErr == nil && !s.State.Ended() {
			out[id] = Status{State: Unknown, ExitCode: -1}
		}
	}
	return out, nil
}

func joinIDs(ids []JobID) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = string(id)
	}
	return strings.Join(words, ",")
}

// squeue adds what squeue knows to out, jobs in partitions that it hides from the user (-a) with the rest. That it
// knows none of the jobs is no error.
func (c Commands) squeue(ctx context.Context, ids []JobID, out map[JobID]Status) error {
	format := make([]string, len(columns))
	for i, col := range columns {
		format[i] = fmt.Sprintf("%s:.%d", col.name, col.width)
	}
	text, err := c.run(ctx, nil, "squeue", "-h", "-a", "-t", "all", "-j", joinIDs(ids), "-O", strings.Join(format, ","))
	var failed *Error
	if errors.As(err, &failed) && strings.Contains(strings.ToLower(failed.Stderr), "invalid job id") {
		return nil
	}
	if err != nil {
		return err
	}
	return parseSqueue(text, out)
}

// parseSqueue reads lines of right-aligned columns.
func parseSqueue(text []byte, out map[JobID]Status) error {
	if len(text) > maxAnswer {
		return fmt.Errorf("%w: squeue's answer is longer than %d bytes", ErrSlurm, maxAnswer)
	}
	total := 0
	for _, col := range columns {
		total += col.width
	}
	for _, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		if len(line) != total {
			return fmt.Errorf("%w: squeue's answer has a line of %d characters instead of %d", ErrSlurm, len(line), total)
		}
		fields := make([]string, len(columns))
		for i, col := range columns {
			fields[i] = strings.TrimSpace(line[:col.width])
			line = line[col.width:]
		}
		if err := addStatus(out, fields); err != nil {
			return err
		}
	}
	return nil
}

// addStatus takes the fields of columns.
func addStatus(out map[JobID]Status, fields []string) error {
	id, err := ParseJobID(fields[0])
	if err != nil {
		return err
	}
	st := Status{ExitCode: -1, Reason: noValue(fields[4]), NodeList: noValue(fields[5]), Start: parseStart(fields[3])}
	if st.State, err = parseState(fields[1]); err != nil {
		return err
	}
	if uid, ok := strings.CutPrefix(fields[1], string(Cancelled)+" by "); ok && strings.Trim(uid, "0123456789") == "" {
		st.By = uid
	}
	if st.NodeList != "" {
		if _, err := hostlist.Parse(maxNodes, st.NodeList); err != nil {
			return fmt.Errorf("%w: job %s: %w", ErrSlurm, id, err)
		}
	}
	if st.State.Ended() {
		if st.ExitCode, st.Signal, err = parseExit(fields[2]); err != nil {
			return err
		}
	}
	out[id] = st
	return nil
}

// parseState takes the first word of "CANCELLED by 1000" or "CANCELLED+".
func parseState(s string) (State, error) {
	word, _, _ := strings.Cut(s, " ")
	word = strings.TrimSuffix(word, "+")
	if word == "" || strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		return "", fmt.Errorf("%w: %q is not a job's state", ErrSlurm, s)
	}
	return State(word), nil
}

func noValue(s string) string {
	switch s {
	case "None", "(null)", "N/A", "None assigned", "None (none)", "Unknown":
		return ""
	}
	return s
}

// parseStart takes seconds since 1970, which SLURM_TIME_FORMAT asks for; anything else is unknown.
func parseStart(s string) time.Time {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// parseExit takes "STATUS:SIGNAL", as sacct has it, or a raw wait status, as squeue has it.
func parseExit(s string) (code, signal int, err error) {
	first, second, pair := strings.Cut(s, ":")
	n, err := strconv.ParseUint(first, 10, 31)
	if err != nil {
		return -1, 0, fmt.Errorf("%w: %q is not an exit status", ErrSlurm, s)
	}
	if !pair {
		return int(n>>8) & 0xff, int(n & 0x7f), nil
	}
	m, err := strconv.ParseUint(second, 10, 31)
	if err != nil {
		return -1, 0, fmt.Errorf("%w: %q is not an exit status", ErrSlurm, s)
	}
	return int(n), int(m), nil
}

// sacct adds what accounting knows to out. Sites without accounting make it fail.
func (c Commands) sacct(ctx context.Context, ids []JobID, out map[JobID]Status) error {
	text, err := c.run(ctx, nil, "sacct", "-n", "-X", "-P", "-j", joinIDs(ids), "-o", "JobIDRaw,State,ExitCode,Start,NodeList")
	if err != nil {
		return err
	}
	if len(text) > maxAnswer {
		return fmt.Errorf("%w: sacct's answer is longer than %d bytes", ErrSlurm, maxAnswer)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if line == "" {
			continue
		}
		f := strings.Split(line, "|")
		if len(f) != 5 {
			return fmt.Errorf("%w: sacct's answer has a line of %d fields: %q", ErrSlurm, len(f), line)
		}
		if err := addStatus(out, []string{f[0], f[1], f[2], f[3], "", f[4]}); err != nil {
			return err
		}
	}
	return nil
}
