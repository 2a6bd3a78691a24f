package slurm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/hostlist"
	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/sitecmd/sitecmdtest"
)

// record renders values as squeue does: right-justified in the field's width
// in bytes, cut without a mark.
func record(values ...string) string {
	var b strings.Builder
	for i, f := range squeueFields {
		fmt.Fprintf(&b, "%s%s", strings.Repeat(" ", max(0, f.width-len(values[i]))), values[i][:min(len(values[i]), f.width)])
	}
	return b.String() + "\n"
}

func running(changes map[int]string) string {
	v := []string{"7", "N/A", "2001", "RUNNING", "0", "standard", "project_1", "cn[1-2]"}
	for i, s := range changes {
		v[i] = s
	}
	return record(v...)
}

// fakeSqueue answers with out and records how it was called.
func fakeSqueue(t *testing.T, out string) Squeue {
	t.Helper()
	answer := filepath.Join(t.TempDir(), "answer")
	if err := os.WriteFile(answer, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	return Squeue{
		Path: sitecmdtest.Script(t,
			`[ "$SLURM_CONF" = /pinned/slurm.conf ] && [ "$3" = --jobs=7 ] && [ "$#" = 4 ] || exit 3; exec cat `+answer),
		SlurmConf: "/pinned/slurm.conf",
	}
}

func hosts(t *testing.T, list string) hostlist.List {
	t.Helper()
	l, err := hostlist.Parse(maxNodes, list)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSqueueJob(t *testing.T) {
	t.Parallel()
	want := JobInfo{JobID: 7, ArrayTask: -1, UID: 2001, State: "RUNNING", Nodes: hosts(t, "cn[1-2]"),
		Account: "project_1", Partition: "standard"}
	task := want
	task.ArrayTask, task.Restart, task.Account = 3, 2, ""
	pending := want
	pending.State, pending.Nodes, pending.Account = "PENDING", hostlist.List{}, "ünï x"
	for name, c := range map[string]struct {
		out  string
		want JobInfo
	}{
		"running": {running(nil), want},
		"array": {running(map[int]string{fieldJobID: "8", fieldArrayTask: "4"}) +
			running(map[int]string{fieldArrayTask: "3", fieldRestart: "2", fieldAccount: "(null)"}), task},
		"pending": {running(map[int]string{fieldState: "PENDING", fieldNodes: "", fieldAccount: "ünï x"}), pending},
	} {
		got, err := fakeSqueue(t, c.out).Job(context.Background(), 7)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", name, got, err, c.want)
		}
	}
}

func TestSqueueJobRefuses(t *testing.T) {
	t.Parallel()
	// A line that would be a perfect record, were the field wide enough.
	forged := "x\n" + strings.TrimSpace(running(map[int]string{fieldUser: "0"}))
	for name, out := range map[string]string{
		"cut":               running(nil)[:1000],
		"one byte too many": running(nil) + "\n",
		"no line ends":      strings.ReplaceAll(running(nil), "\n", " "),
		"twice":             running(nil) + running(nil),
		"newline":           running(map[int]string{fieldAccount: "a\nb"}),
		"forged record":     running(map[int]string{fieldAccount: forged}),
		"invalid UTF-8":     running(map[int]string{fieldAccount: "\xff"}),
		"account cut":       running(map[int]string{fieldAccount: strings.Repeat("a", 300)}),
		"node list cut":     running(map[int]string{fieldNodes: "cn[" + strings.Repeat("1,", 40000) + "1]"}),
		"node list":         running(map[int]string{fieldNodes: "cn[1-"}),
		"user by name":      running(map[int]string{fieldUser: "alice"}),
		"array range":       running(map[int]string{fieldArrayTask: "1-5"}),
		"restart":           running(map[int]string{fieldRestart: "-1"}),
	} {
		if j, err := fakeSqueue(t, out).Job(context.Background(), 7); !errors.Is(err, sitecmd.ErrFailed) {
			t.Errorf("%s: got %+v, %v, want sitecmd.ErrFailed", name, j, err)
		}
	}
	for name, q := range map[string]Squeue{
		"empty answer":    fakeSqueue(t, ""),
		"other jobs only": fakeSqueue(t, running(map[int]string{fieldJobID: "70"})),
		"unknown":         {Path: sitecmdtest.Script(t, "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")},
	} {
		if _, err := q.Job(context.Background(), 7); !errors.Is(err, ErrNoJob) {
			t.Errorf("%s: got %v, want ErrNoJob", name, err)
		}
	}
	down := Squeue{Path: sitecmdtest.Script(t, "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")}
	if _, err := down.Job(context.Background(), 7); !errors.Is(err, sitecmd.ErrFailed) || errors.Is(err, ErrNoJob) {
		t.Errorf("slurmctld is down: %v", err)
	}
}

func FuzzSqueueRecord(f *testing.F) {
	f.Add([]byte(running(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := findRecord(b, 7)
		if err != nil {
			return
		}
		if j, err := parseRecord(r); err == nil && (j.JobID != 7 || strings.ContainsAny(j.State+j.Account, "\n\x00")) {
			t.Errorf("got %+v", j)
		}
	})
}
