package jobprep

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/slurm"
)

// TestForeseen: what Slurm and the key service can tell of a job that would never run, or get no key, is told before it
// is queued, and leaves nothing; --force submits it all the same.
func TestForeseen(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	partitions, err := os.ReadFile("../slurm/testdata/partitions-24.11")
	check(t, err)
	at := func(t *testing.T) (*site, *bytes.Buffer) {
		s, said := shared.site(t), &bytes.Buffer{}
		s.o.Script.Nodes = 1
		s.d.Log = slog.New(slog.NewTextHandler(said, nil))
		s.d.Slurm = slurm.Commands{Runner: runner(func(argv []string, _ string) (string, string, int) {
			switch {
			case slices.Equal(argv, []string{"id", "-un"}):
				return "alice\n", "", 0
			case slices.Contains(argv, "partition"):
				return string(partitions), "", 0
			case argv[len(argv)-1] == "cn[1-2]":
				return "cn1\ncn2\n", "", 0
			case slices.Contains(argv, "node"):
				return "NodeName=cn1 Arch=x86_64 CoresPerSocket=1\nNodeName=cn2 Arch=aarch64 CoresPerSocket=1\n", "", 0
			case slices.Contains(argv, "hostnames"):
				return argv[len(argv)-1] + "\n", "", 0
			case slices.Contains(argv, "squeue"):
				return line(argv, "7", "FAILED", "3:0", "N/A", "NonZeroExitCode", "cn1"), "", 0
			}
			return "", "not here", 1
		})}
		return s, said
	}
	of := func(s *site, platform string) {
		s.o.ApplicationInfo = s.publishRequest(publish.Request{Kind: manifest.KindImage, Target: publish.Target{Name: "foreign"}, Image: &manifest.Image{
			Reference: "docker.io/x:1", Digest: manifest.Digest{1}, Of: manifest.OfManifest, Platform: platform,
		}}, nil)
	}
	for name, c := range map[string]struct {
		change func(s *site)
		class  fault.Class
		says   string
	}{
		"control":                 {func(*site) {}, fault.None, ""},
		"the nodes' architecture": {func(s *site) { of(s, "linux/arm64/v8") }, fault.None, ""}, // of one of two
		"another architecture":    {func(s *site) { of(s, "linux/riscv64") }, fault.Slurm, "the image foreign is for linux/riscv64, and node cn1 is linux/amd64"},
		"a SIF file without one":  {func(s *site) { of(s, "linux/unknown") }, fault.None, ""},
		"32 bits run on 64":       {func(s *site) { of(s, "linux/arm/v7") }, fault.None, ""},
		"no partition":            {func(s *site) { s.o.Script.Partition = "tiny" }, fault.Slurm, "the site has no partition tiny"},
		"too long":                {func(s *site) { s.o.Script.Partition, s.o.Script.Time = "small", "2-0" }, fault.Slurm, "24h0m0s that partition small"},
		"no such node":            {func(s *site) { s.o.Script.NodeList = "cn9" }, fault.Slurm, "standard has no node cn9"},
		"a dependency":            {func(s *site) { s.o.Script.Dependency = "afterok:7" }, fault.Slurm, "job 7 has ended as FAILED"},
		"a node that the owner does not name": {func(s *site) {
			s.o.DataInfo[0] = s.publish("named", manifest.KindDataset, func(p *manifest.Policy) { p.Nodes = []string{"cn1"} })
			s.o.Script.NodeList = "cn2"
		}, fault.Key, `does not name node "cn2"`},
		"the partition": {func(s *site) {
			s.o.DataInfo[0] = s.publish("elsewhere", manifest.KindDataset, func(p *manifest.Policy) { p.Partitions = []string{"small"} })
		}, fault.Key, `does not name partition "standard"`}, // the default
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := at(t)
			c.change(s)
			p, err := Prepare(t.Context(), s.d, s.o)
			if fault.ClassOf(err) != c.class || err != nil && (!strings.Contains(err.Error(), c.says) || fault.Hint(err) == "") {
				t.Errorf("Prepare: %v, hint %q", err, fault.Hint(err))
			}
			if err == nil {
				p.Close()
				return
			}
			s.nothingLeft()
			if s.o.Force = true; name == "no partition" {
				return // sbatch has no use for that
			}
			p, err = Prepare(t.Context(), s.d, s.o)
			check(t, err)
			p.Close()
		})
	}
	for want, change := range map[string]func(s *site){
		"is for linux/arm64, and node cn1 is linux/amd64: choose nodes that can run it": func(s *site) { of(s, "linux/arm64") },
		"nouserns is DOWN: jobs wait": func(s *site) { s.o.Script.Partition = "nouserns" },
		"choose with --account": func(s *site) {
			s.o.DataInfo[0] = s.publish("billed", manifest.KindDataset, func(p *manifest.Policy) { p.Accounts = []string{"a", "b"} })
		},
		"choose with --partition": func(s *site) {
			s.o.DataInfo[0] = s.publish("here", manifest.KindDataset, func(p *manifest.Policy) { p.Partitions = []string{"small"} })
			s.o.Script.Partition = "small,standard"
		},
		"choose nodes with --nodelist": func(s *site) {
			s.o.DataInfo[0] = s.publish("narrow", manifest.KindDataset, func(p *manifest.Policy) { p.Nodes = []string{"cn[2-9]"} })
		},
		"on other nodes of partition": func(s *site) { // those that Slurm adds to the list
			s.o.DataInfo[0] = s.publish("narrow-list", manifest.KindDataset, func(p *manifest.Policy) { p.Nodes = []string{"cn1"} })
			s.o.Script.Nodes, s.o.Script.NodeList = 2, "cn1"
		},
	} {
		s, said := at(t)
		change(s)
		p, err := Prepare(context.WithoutCancel(t.Context()), s.d, s.o)
		check(t, err)
		p.Close()
		if !strings.Contains(said.String(), want) {
			t.Errorf("not said: %q: %s", want, said)
		}
	}
}

// TestExpectManyNodes: a job on more nodes than the key service looks at names as many as it takes.
func TestExpectManyNodes(t *testing.T) {
	t.Parallel()
	for nodes, want := range map[int]int{0: 0, 2: 2, keyapi.MaxExpectedNodes: keyapi.MaxExpectedNodes,
		keyapi.MaxExpectedNodes + 1: keyapi.MaxExpectedNodes} {
		p := planned{nodes: make([]string, nodes), o: Options{Script: slurm.Script{Account: "a"}}, partition: "p"}
		if e := p.expect(); len(e.Nodes) != want || e.Account != "a" || e.Partition != "p" {
			t.Errorf("%d nodes: %d, %q, %q", nodes, len(e.Nodes), e.Account, e.Partition)
		}
	}
}
