package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

func exitCode(err error) int {
	var ee *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ee):
		return ee.ExitCode()
	}
	return -1
}

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// answer is what a command is to say.
type answer struct {
	stdout, stderr string
	exit           int
	err            error
}

// script is a Runner that answers by the command's name and remembers what it was asked.
type script struct {
	answers map[string]answer
	asked   []string
	stdin   string
}

func (s *script) Run(_ context.Context, argv []string, stdin io.Reader) ([]byte, []byte, int, error) {
	i := 1
	for argv[i] == "-u" {
		i += 2
	}
	i++ // SLURM_TIME_FORMAT
	s.asked = append(s.asked, strings.Join(argv[i:], " "))
	if stdin != nil {
		b, _ := io.ReadAll(stdin)
		s.stdin = string(b)
	}
	a, ok := s.answers[argv[i]]
	if !ok || argv[0] != "env" {
		return nil, nil, 0, fmt.Errorf("unexpected %q", argv)
	}
	return []byte(a.stdout), []byte(a.stderr), a.exit, a.err
}

func TestSubmit(t *testing.T) {
	t.Parallel()
	var notices bytes.Buffer
	r := &script{answers: map[string]answer{"/opt/slurm/bin/sbatch": {stdout: "Welcome!\n4711;puhti\n",
		stderr: "\nplease \x1b[2Jclean up scratch\n"}}}
	c := Commands{Runner: r, BinDir: "/opt/slurm/bin", Notices: &notices}
	id, err := c.Submit(t.Context(), []byte("#!/bin/bash\n"))
	if err != nil || id != "4711" || r.stdin != "#!/bin/bash\n" || notices.String() != `please \u001b[2Jclean up scratch`+"\n" {
		t.Errorf("id %q, %v; stdin %q, notices %q", id, err, r.stdin, notices.String())
	}
	if want := []string{"/opt/slurm/bin/sbatch --parsable"}; !reflect.DeepEqual(r.asked, want) {
		t.Errorf("asked %q", r.asked)
	}
	for _, a := range []answer{
		{stdout: "4711\n", stderr: "sbatch: error: invalid partition\n", exit: 1},
		{stdout: "all is well\n"}, {stdout: ""}, {err: errors.New("connection lost")}, {stdout: "-1"}, {stdout: "0"},
	} {
		c := Commands{Runner: &script{answers: map[string]answer{"sbatch": a}}}
		id, err := c.Submit(t.Context(), nil)
		if err == nil || id != "" {
			t.Errorf("%+v: %q, %v", a, id, err)
		}
		if a.exit != 0 && (!errors.Is(err, ErrSlurm) || !strings.Contains(err.Error(), "invalid partition")) {
			t.Errorf("%+v: %v", a, err)
		}
		if a.err != nil && !errors.Is(err, a.err) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

// queueLine writes fields as squeue -O does.
func queueLine(fields ...string) string {
	var b strings.Builder
	for i, f := range fields {
		fmt.Fprintf(&b, "%*s", columns[i].width, f)
	}
	return b.String() + "\n"
}

func TestStatus(t *testing.T) {
	t.Parallel()
	r := &script{answers: map[string]answer{
		"squeue": {stdout: queueLine("1", "PENDING", "0", "N/A", "Nodes required for job are DOWN, DRAINED", "") +
			queueLine("2", "RUNNING", "0", "1700000000", "None", "cn[1-2]") +
			queueLine("3", "FAILED", "10752", "1700000000", "NonZeroExitCode", "cn1")},
		"sacct": {stdout: "4|CANCELLED by 1000|0:15|1700000000|cn1\n5|COMPLETED|0:0|1700000001|cn[1-2]\n"},
	}}
	got, err := Commands{Runner: r}.Status(t.Context(), []JobID{"1", "2", "3", "4", "5", "6"})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1700000000, 0)
	want := map[JobID]Status{
		"1": {State: Pending, Reason: "Nodes required for job are DOWN, DRAINED", ExitCode: -1},
		"2": {State: Running, NodeList: "cn[1-2]", Start: start, ExitCode: -1},
		"3": {State: Failed, Reason: "NonZeroExitCode", NodeList: "cn1", Start: start, ExitCode: 42},
		"4": {State: Cancelled, NodeList: "cn1", Start: start, Signal: 15, By: "1000"},
		"5": {State: Completed, NodeList: "cn[1-2]", Start: start.Add(time.Second)},
		"6": {State: Unknown, ExitCode: -1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if len(r.asked) != 2 || !strings.Contains(r.asked[0], "-j 1,2,3,4,5,6 -O JobID:.20,") || !strings.Contains(r.asked[1], "-j 4,5,6 ") {
		t.Errorf("asked %q", r.asked)
	}
}

func TestStatusUnknown(t *testing.T) {
	t.Parallel()
	gone := answer{stderr: "slurm_load_jobs error: Invalid job id specified\n", exit: 1}
	down := answer{stderr: "Unable to contact slurm controller\n", exit: 1}
	noAccounting := answer{stderr: "Slurm accounting storage is disabled\n", exit: 1}
	for _, c := range []struct {
		name          string
		squeue, sacct answer
		want          State
		wantErr       bool
	}{
		{"forgotten, no accounting", gone, noAccounting, Unknown, false},
		{"empty answers", answer{}, answer{}, Unknown, false},
		{"forgotten, and accounting missed its end", gone, answer{stdout: "7|RUNNING|0:0|1700000000|cn1\n"}, Unknown, false},
		{"controller down, accounting says that it runs", down, answer{stdout: "7|RUNNING|0:0|1700000000|cn1\n"}, Running, false},
		{"controller down, accounting up", down, answer{stdout: "7|COMPLETED|0:0|Unknown|cn1\n"}, Completed, false},
		{"all down", down, noAccounting, "", true},
		{"connection lost", answer{err: errors.New("lost")}, answer{err: errors.New("lost")}, "", true},
	} {
		r := &script{answers: map[string]answer{"squeue": c.squeue, "sacct": c.sacct}}
		got, err := Commands{Runner: r}.Status(t.Context(), []JobID{"7"})
		if (err != nil) != c.wantErr || got["7"].State != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestStatusStrict(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"1 RUNNING\n", queueLine("x", "RUNNING", "0", "", "", ""), queueLine("1", "running", "0", "", "", ""),
		queueLine("1", "FAILED", "x", "", "", ""), queueLine("1", "RUNNING", "0", "", "", "cn[1-"),
		queueLine("1", "RUNNING", "0", "", "", "") + "slurm: notice\n",
	} {
		if err := parseSqueue([]byte(bad), map[JobID]Status{}); !errors.Is(err, ErrSlurm) {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
	c := Commands{Runner: &script{}}
	for _, ids := range [][]JobID{nil, {"1; rm"}, {"-1"}, {""}, make([]JobID, maxJobs+1)} {
		if _, err := c.Status(t.Context(), ids); !errors.Is(err, ErrSlurm) {
			t.Errorf("%d ids %q: %v", len(ids), ids, err)
		}
	}
}

func TestEndedStates(t *testing.T) {
	t.Parallel()
	for s, want := range map[State]bool{Unknown: false, Pending: false, Running: false, Completing: false,
		Completed: true, Timeout: true, "PREEMPTED": true, "SUSPENDED": false} {
		if s.Ended() != want {
			t.Errorf("%s.Ended() = %v", s, !want)
		}
	}
}

// Whatever stands in the columns, an answer is either refused or gives a status that makes sense.
func FuzzStatusFields(f *testing.F) {
	f.Add("1", "RUNNING", "0", "N/A", "None", "cn1")
	f.Add("1", "CANCELLED by 7", "0:15", "1700000000", "", "cn[1-2]")
	f.Fuzz(func(t *testing.T, id, state, exit, start, reason, nodes string) {
		out := map[JobID]Status{}
		err := addStatus(out, []string{id, state, exit, start, reason, nodes})
		if st := out[JobID(id)]; err == nil && (st.State == "" || st.State.Ended() != (st.ExitCode >= 0)) {
			t.Errorf("%+v", out)
		}
		if err != nil && !errors.Is(err, ErrSlurm) {
			t.Error(err)
		}
	})
}
