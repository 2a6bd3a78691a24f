package slurm

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestPartitions reads what scontrol of Slurm 24.11 said on a real cluster.
func TestPartitions(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/partitions-24.11")
	if err != nil {
		t.Fatal(err)
	}
	all, err := parsePartitions(text)
	if err != nil || len(all) != 4 {
		t.Fatalf("%+v, %v", all, err)
	}
	if p := all[1]; p.Name != "small" || p.MaxTime != 24*time.Hour || p.MaxNodes != 1 || p.MinNodes != 1 ||
		p.Total != 2 || p.Nodes != "cn[1-2]" {
		t.Errorf("%+v", p)
	}
	for name, c := range map[string]struct {
		s     Script
		nodes []string
		want  string // "" for nothing against it
	}{
		"default":              {Script{Nodes: 2}, nil, ""},
		"no such partition":    {Script{Nodes: 1, Partition: "tiny"}, nil, "no partition tiny; it has standard, small, nouserns, drained"},
		"too many nodes":       {Script{Nodes: 3}, nil, "standard has 2 nodes, not 3"},
		"more than a job may":  {Script{Nodes: 2, Partition: "small"}, nil, "may have 1 nodes in partition small"},
		"as few as may":        {Script{MinNodes: 1, Nodes: 9, Partition: "small"}, nil, ""},
		"at least too many":    {Script{MinNodes: 2, Nodes: 9, Partition: "small"}, nil, "may have 1 nodes in partition small, not 2"},
		"longer":               {Script{Nodes: 1, Partition: "small", Time: "1-00:00:01"}, nil, "more than the 24h0m0s"},
		"as long as allowed":   {Script{Nodes: 1, Partition: "small", Time: "24:00:00"}, nil, ""},
		"no time to run":       {Script{Nodes: 1, SealTime: 10 * time.Minute}, nil, "without --time 10m0s, all of which"},
		"time to run":          {Script{Nodes: 1, SealTime: 10 * time.Minute, Time: "11"}, nil, ""},
		"without a limit":      {Script{Nodes: 1, Partition: "small", Time: "UNLIMITED"}, nil, "more than"},
		"no limit there":       {Script{Nodes: 1, Time: "UNLIMITED"}, nil, ""},
		"drained":              {Script{Nodes: 1, Partition: "drained"}, nil, "takes no jobs: it is DRAIN"},
		"a node of it":         {Script{Nodes: 1}, []string{"cn1", "cn2"}, ""},
		"a node of another":    {Script{Nodes: 1}, []string{"cn1", "cn3"}, "standard has no node cn3"},
		"the second will do":   {Script{Nodes: 2, Partition: "small,standard"}, nil, ""},
		"neither of them will": {Script{Nodes: 2, Partition: "small,nouserns"}, nil, "may have 1 nodes"},
	} {
		got := ""
		chosen, err := c.s.Chosen(all)
		if err != nil {
			got = err.Error()
		}
		for _, p := range chosen {
			why := c.s.Unfit(p, c.nodes)
			if why == "" {
				got = ""
				break
			}
			if got == "" {
				got = why
			}
		}
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	for want, s := range map[string]Script{
		"": {Partition: "standard", Account: "x", QOS: "y"}, "name account bad": {Partition: "small", Account: "bad"},
		"name quality of service short": {Partition: "small", QOS: "short"}, "is DOWN: jobs wait": {Partition: "nouserns", Account: "b"},
	} {
		chosen, err := s.Chosen(all)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Doubtful(chosen[0]); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("doubtful: %q, want %q", got, want)
		}
	}
	for _, bad := range []string{"PartitionName=a MaxTime=soon", "PartitionName=a MaxTime=1:00:00 MinNodes=x MaxNodes=1 TotalNodes=1"} {
		if all, err := parsePartitions([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, all)
		}
	}
}

// FuzzPartitions: whatever scontrol says is refused or understood.
func FuzzPartitions(f *testing.F) {
	f.Add("PartitionName=a MaxTime=1-0:0:1 MinNodes=0 MaxNodes=UNLIMITED TotalNodes=1 Nodes=cn[1-2]\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parsePartitions([]byte(text))
		for _, p := range all {
			if err == nil && p.Name == "" {
				t.Errorf("%+v", p)
			}
			s := Script{Nodes: 1, Partition: p.Name}
			s.Unfit(p, []string{"cn1"})
		}
	})
}

// TestUnmet: Slurm takes a dependency on a job that has failed, and has the job wait for ever.
func TestUnmet(t *testing.T) {
	t.Parallel()
	r := &script{answers: map[string]answer{
		"squeue": {stdout: queueLine("1", "FAILED", "3:0", "1700000000", "NonZeroExitCode", "cn1") +
			queueLine("2", "COMPLETED", "0:0", "1700000000", "None", "cn1") + queueLine("3", "RUNNING", "0:0", "1700000000", "None", "cn1")},
		"sacct": {stderr: "Slurm accounting storage is disabled\n", exit: 1},
	}}
	for dependency, want := range map[string]string{
		"": "", "afterok:2": "", "afterok:3": "", "afterok:2:3": "", "afterany:1": "", "afternotok:1": "", "singleton": "",
		"afterok:1": "job 1 has ended as FAILED", "afterok:2:1": "job 1", "afterok:2,afterok:1": "job 1 has", "afternotok:2": "ended well",
		"afterok:1?afterok:3": "", "afterok:1?afternotok:2": "job 1", "afterok:9": "does not know job 9", "afterany:9": "",
		"after:3+5": "", "afterok:12_3": "", "afterok:3,singleton": "",
	} {
		s := Script{Dependency: dependency}
		got, err := s.Unmet(t.Context(), Commands{Runner: r})
		if err != nil || (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, %v; want %q", dependency, got, err, want)
		}
	}
}
