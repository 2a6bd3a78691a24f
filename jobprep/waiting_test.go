package jobprep

import (
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// TestWaiting: of the jobs on record, those that still want a volume's key are named.
func TestWaiting(t *testing.T) {
	t.Parallel()
	const id = "00112233445566778899aabbccddeeff"
	store, err := submission.Open(t.TempDir())
	check(t, err)
	states := map[string]string{"1": "PENDING", "2": "RUNNING", "3": "COMPLETED", "4": "CONFIGURING", "5": "SUSPENDED"}
	for i, r := range []submission.Record{
		{JobID: "1", Volumes: []string{"other", id}}, {JobID: "2", Volumes: []string{id}}, {JobID: "3", Volumes: []string{id}},
		{JobID: "4", Volumes: []string{id}}, {JobID: "5", Volumes: []string{id}}, {JobID: "6", Volumes: []string{"other"}},
		{JobID: "7", Volumes: []string{id}, Address: "elsewhere"}, {JobID: "8"},
		{Stage: submission.Ready, Volumes: []string{id}, JobDir: "/s/nobody-took-it"},
		{Stage: submission.Submitting, Volumes: []string{id}, JobDir: "/s/by-hand"},
		{Stage: submission.Preparing, Volumes: []string{id}},
	} {
		r.Run, r.Tier, r.LogFile = strings.Repeat(string(rune('a'+i)), 32), manifest.TierB2, t.TempDir()+"/none"
		if r.Address == "" {
			r.Address = "login"
		}
		check(t, store.Save(r))
	}
	down := false
	d := Deps{FS: transfer.Local{}, Store: store, Address: "login", Slurm: slurm.Commands{Runner: runner(
		func(argv []string, _ string) (string, string, int) {
			switch {
			case down:
				return "", "slurmctld does not answer", 1
			case argv[len(argv)-1] == "JobID:.20,Comment:.8200":
				return strings.Repeat(" ", 18) + "90" + strings.Repeat(" ", 8192) + " by-hand\n", "", 0
			case slices.Contains(argv, "sacct"):
				return "", "accounting is off", 1
			}
			states["90"] = "PENDING"
			var out strings.Builder
			for _, job := range []string{"1", "2", "3", "4", "5", "90"} {
				out.WriteString(line(argv, job, states[job], "0:0", "0", "None", ""))
			}
			return out.String(), "", 0
		})}}
	got, err := Waiting(t.Context(), d, id)
	want := []string{"job 1 (PENDING)", "job 4 (CONFIGURING)", "job 90 (PENDING)",
		"job 7 on elsewhere, which was not asked", "run iiiiiiiiiiii (ready to be submitted)"}
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	down = true
	if got, err = Waiting(t.Context(), d, id); err == nil || len(got) != 8 || !slices.Contains(got, "job 3 (Slurm does not say)") {
		t.Errorf("Slurm is down: %q, %v", got, err)
	}
}
