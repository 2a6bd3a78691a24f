package slurm

import (
	"os"
	"strings"
	"testing"
)

// TestRecorded reads what squeue of Slurm 24.11 said of jobs on a real cluster, in the columns that Status asks for.
func TestRecorded(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/squeue-24.11")
	if err != nil {
		t.Fatal(err)
	}
	got := map[JobID]Status{}
	var lines strings.Builder
	for line := range strings.Lines(string(text)) { // without the blanks, which are many
		lines.WriteString(queueLine(strings.Split(strings.TrimSpace(line), "|")...))
	}
	if err := parseSqueue([]byte(lines.String()), got); err != nil {
		t.Fatal(err)
	}
	const none = -1
	for id, want := range map[JobID]struct {
		outlook Outlook
		exit    int
		refused bool
		says    string
	}{
		"98":  {Waits, none, true, "no nodes like those"},
		"100": {Waits, none, false, "when the site opens it"},
		"101": {Held, none, false, "scontrol release"},
		"102": {Waits, none, false, "does not begin"},
		"103": {Waits, none, true, "no nodes like"},
		"106": {Waits, 3, false, ""},
		"107": {Waits, 128 + 9, false, ""},
		"108": {Waits, 128 + 1, false, ""},
		"109": {Waits, none, false, "could not run its script"},
		"110": {Waits, none, false, ""},
		"111": {Never, none, false, "depends on"},
		"112": {Waits, none, false, "depends on"},
		"113": {Held, none, false, "is held"},
		"114": {Waits, none, false, "a node of it failed"},
		"115": {Held, none, false, "the site holds it"},
		"116": {Waits, none, false, "before it began"},
		"119": {Waits, 128 + 15, false, "it was cancelled"},
		"120": {Waits, 0, false, ""},
		"121": {Never, none, false, "--time"},
		"122": {Waits, none, false, "down, drained or reserved"},
		"123": {Never, none, false, "may not use the partition"},
		"124": {Waits, none, true, "deadline"},
		"125": {Waits, none, false, "time limit"},
		"126": {Held, none, false, "could not start it"},
		"127": {Waits, none, false, "down, drained"},
	} {
		s, ok := got[id]
		if !ok {
			t.Errorf("no job %s", id)
			continue
		}
		outlook, says := s.Waiting()
		if s.State.Ended() {
			outlook, says = Waits, s.Ending()
		}
		exit, ok := s.ScriptExit()
		if !ok {
			exit = none
		}
		if outlook != want.outlook || exit != want.exit || s.Refused() != want.refused || !strings.Contains(says, want.says) {
			t.Errorf("job %s, %s (%s): %d, %d, %v, %q", id, s.State, s.Reason, outlook, exit, s.Refused(), says)
		}
	}
	if len(got) < 20 {
		t.Errorf("only %d jobs", len(got))
	}
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]Outlook{
		"": Waits, "Priority": Waits, "Resources": Waits, "ReqNodeNotAvail, UnavailableNodes:cn2": Waits, "NodeDown": Waits,
		"AssocGrpCpuLimit": Waits, "AssocGrpCPUMinutesLimit": Waits, "QOSMaxJobsPerUserLimit": Waits, "MaxJobsPerAccount": Waits,
		"AssocMaxJobsLimit": Waits, "QOSGrpNodeLimit": Waits, "a reason of the next version": Waits, "PartitionDown": Waits,
		"JobHeldAdmin": Held, "JobHeldUser": Held, "launch failed requeued held": Held, "JobHoldMaxRequeue": Held,
		"PartitionTimeLimit": Never, "PartitionNodeLimit": Never, "InvalidQOS": Never, "InvalidAccount": Never, "AccountNotAllowed": Never,
		"QOSMaxWallDurationPerJobLimit": Never, "AssocMaxWallDurationPerJobLimit": Never, "QOSMaxGRESPerNode": Never,
		"AssocMaxCpuMinutesPerJobLimit": Never, "QOSMinCpuNotSatisfied": Never, "MaxMemPerLimit": Never, "ReservationDeleted": Never,
		"Job's account not permitted to use this partition (p allows a not b)":               Never,
		"Job's QOS not permitted to use this partition (p allows a not b)":                   Never,
		"uid 2001 not in group permitted to use this partition (small). groups allowed: bob": Never,
	} {
		if got, means := (Status{State: Pending, Reason: reason}).Waiting(); got != want || got != Waits && means == "" {
			t.Errorf("%q: %d, %q; want %d", reason, got, means, want)
		}
	}
	if got, _ := (Status{State: "SPECIAL_EXIT"}).Waiting(); got != Held {
		t.Errorf("SPECIAL_EXIT: %d", got)
	}
}
