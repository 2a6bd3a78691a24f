package slurm

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

const digest0 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func minimal() Script {
	return Script{Dir: "/scratch/p/job", Pin: Pin{"manifest.json", digest0}, Log: "job.log",
		JobName: "jp2a", Nodes: 1, SealTime: 300 * time.Second,
		Node: NodeRun{Command: "node-run", Args: []string{"--job-dir", "/scratch/p/job"},
			Binaries: []Binary{{"sealbatch", "bin/sealbatch", digest0, 1}}}}
}

func full() Script {
	s := minimal()
	s.JobName, s.Nodes, s.NodeList = `a$(touch x)b "q" \ 'r' #h`, 4, "cn[1-3,07],x2"
	s.Partition, s.Account, s.Time, s.Mem, s.CPUsPerTask = "standard,debug", "project_462000031", "00:60:00", "16G", 8
	s.Gres, s.GPUs, s.Constraint, s.QOS, s.Reservation = "gpu:a100:2,lustre", "a100:2", "[rack1|rack2]&ssd*2", "high", "maint.1"
	s.Exclusive, s.Dependency, s.MailType, s.MailUser = true, "afterok:12:13,singleton", "END,FAIL", "a.b+c@example.org"
	s.Raw = []KV{{"comment", "it's # not a comment"}, {"contiguous", ""}, {"exclude", "cn9"}}
	s.Dir, s.Input = "/scratch/p/100% 'sure\\/job", "one-time tokens"
	s.Setup = []string{"module purge", `export SITE="a b"; module load apptainer # this one`}
	s.Node.Binaries = append(s.Node.Binaries, Binary{"gocryptfs", "bin/it's here", digest0, 1})
	s.Node.Args = []string{"--job-dir", "/scratch/$(touch y)/`z`", "-dash", "", "; rm -rf /", "'"}
	return s
}

func TestRenderGolden(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]Script{"minimal": minimal(), "full": full()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := s.Render()
			if s.Input != "" && err == nil {
				got, err = WithInput(got, []string{"first", "it's second"})
			}
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".sh")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("differs from %s (go test -update rewrites it):\n%s", golden, got)
			}
			for _, cmd := range [][]string{{"bash", "-n", golden}, {"shellcheck", "--exclude=SC2016", golden}} {
				if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
					t.Errorf("%q: %v\n%s", cmd, err, out)
				}
			}
		})
	}
}

// The part that stands in single quotes is shell too.
func TestNodePartShellcheck(t *testing.T) {
	t.Parallel()
	s := full()
	_, part, _ := strings.Cut(s.fill(nodePart), "on_each_node='")
	part, _, ok := strings.Cut(part, "'")
	if !ok {
		t.Fatal("the node part does not end")
	}
	cmd := exec.Command("shellcheck", "--shell=bash", "-")
	cmd.Stdin = strings.NewReader(part)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Script)
		want   string
	}{
		"no name":               {func(s *Script) { s.JobName = "" }, "job name"},
		"newline":               {func(s *Script) { s.JobName = "a\n#SBATCH --uid=0" }, "control character"},
		"escape":                {func(s *Script) { s.JobName = "a\x1b[2J" }, "control character"},
		"not UTF-8":             {func(s *Script) { s.JobName = "a\xff" }, "UTF-8"},
		"Slurm's own word":      {func(s *Script) { s.JobName = "my HetJob" }, "heterogeneous"},
		"no nodes":              {func(s *Script) { s.Nodes = 0 }, "0 nodes"},
		"more nodes than most":  {func(s *Script) { s.MinNodes = 5 }, "5-4 nodes"},
		"node list":             {func(s *Script) { s.NodeList = "cn[1-" }, "--nodelist"},
		"partition":             {func(s *Script) { s.Partition = "-p x" }, "not a partition"},
		"account":               {func(s *Script) { s.Account = "$(id)" }, "not a account"},
		"mem":                   {func(s *Script) { s.Mem = "lots" }, "not a mem"},
		"gres":                  {func(s *Script) { s.Gres = "gpu;x" }, "not a gres"},
		"constraint":            {func(s *Script) { s.Constraint = "a b" }, "not a constraint"},
		"dependency":            {func(s *Script) { s.Dependency = "afterok:1 x" }, "not a dependency"},
		"mail":                  {func(s *Script) { s.MailUser = "-x@y" }, "not a mail-user"},
		"time":                  {func(s *Script) { s.Time = "soon" }, "not a Slurm time limit"},
		"time below seal":       {func(s *Script) { s.Time = "5" }, "lower --seal-time"},
		"seal time":             {func(s *Script) { s.SealTime = 0 }, "--seal-time"},
		"relative directory":    {func(s *Script) { s.Dir = "job" }, "absolute"},
		"log elsewhere":         {func(s *Script) { s.Log = "../log" }, "not files of a job's directory"},
		"manifest elsewhere":    {func(s *Script) { s.Pin.Name = "/x" }, "not files of a job's directory"},
		"no manifest":           {func(s *Script) { s.Pin.SHA256 = "" }, "not files of a job's directory"},
		"program elsewhere":     {func(s *Script) { s.Node.Binaries[0].Path = "../x" }, "not a program"},
		"input":                 {func(s *Script) { s.Input = "a\nb" }, "control character"},
		"raw reserved":          {func(s *Script) { s.Raw = []KV{{"export", "ALL"}} }, "relies on"},
		"raw abbreviated":       {func(s *Script) { s.Raw = []KV{{"expor", "ALL"}} }, "relies on"},
		"raw abbreviated more":  {func(s *Script) { s.Raw = []KV{{"req", ""}} }, "relies on"},
		"raw prefix of another": {func(s *Script) { s.Raw = []KV{{"container", "x"}} }, "container is not possible: the job relies on"},
		"raw for one of two":    {func(s *Script) { s.Raw = []KV{{"container-i", "x"}} }, "takes it for container-id, and"},
		"raw for several":       {func(s *Script) { s.Raw = []KV{{"ex", ""}} }, "takes it for exclusive or export or export-file, and"},
		"raw begins a flag":     {func(s *Script) { s.Raw = []KV{{"parti", "x"}} }, "use --partition"},
		"raw typed":             {func(s *Script) { s.Raw = []KV{{"nodes", "9"}} }, "use --nodes"},
		"raw ntasks":            {func(s *Script) { s.Raw = []KV{{"ntasks", "9"}} }, "relies on"},
		"raw key":               {func(s *Script) { s.Raw = []KV{{"a b", "9"}} }, "KEY=VALUE"},
		"raw short":             {func(s *Script) { s.Raw = []KV{{"-N", "9"}} }, "KEY=VALUE"},
		"raw value":             {func(s *Script) { s.Raw = []KV{{"comment", "a\nb"}} }, "control character"},
		"setup":                 {func(s *Script) { s.Setup = []string{"#SBATCH --uid=0"} }, "one line of shell"},
		"setup lines":           {func(s *Script) { s.Setup = []string{"a\nb"} }, "one line of shell"},
		"no binaries":           {func(s *Script) { s.Node.Binaries = nil }, "nothing to run"},
		"binary name":           {func(s *Script) { s.Node.Binaries = []Binary{{"../x", "x", digest0, 1}} }, "not a program"},
		"binary digest":         {func(s *Script) { s.Node.Binaries = []Binary{{"x", "x", "ABC", 1}} }, "not a program"},
		"binary of no size":     {func(s *Script) { s.Node.Binaries = []Binary{{"x", "x", digest0, 0}} }, "not a program"},
		"binary twice": {func(s *Script) {
			s.Node.Binaries = []Binary{{"x", "x", digest0, 1}, {"x", "y", digest0, 1}}
		}, "not a program"},
		"argument": {func(s *Script) { s.Node.Args = []string{"a\nb"} }, "control character"},
	} {
		s := full()
		c.change(&s)
		if _, err := s.Render(); !errors.Is(err, ErrScript) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want ...%s", name, err, c.want)
		}
	}
}

// Input goes into its place and nowhere else, and what does not fit is refused without being shown.
func TestWithInput(t *testing.T) {
	t.Parallel()
	s := full()
	s.Setup = append(s.Setup, strings.Split(inputPart+leftOut, "\n")...) // that of a user who copied it
	without, err := s.Render()
	if err != nil || !NeedsInput(without) {
		t.Fatalf("needs input: %v, %v", NeedsInput(without), err)
	}
	with, err := WithInput(without, []string{"SECRET", "$(x)"})
	if err != nil || NeedsInput(with) ||
		!strings.Contains(string(with), "input() {\n  builtin printf '%s\\n' \\\n    SECRET \\\n    '$(x)'\n}\ninput |\nsrun ") ||
		strings.Count(string(with), "SECRET") != 1 || strings.Contains(strings.SplitAfter(string(with), "arguments=(")[1], leftOut) {
		t.Errorf("%v\n%s", err, with)
	}
	none := minimal()
	script, err := none.Render()
	if err != nil || NeedsInput(script) {
		t.Errorf("a script without input: %v", err)
	}
	for what, c := range map[string]struct {
		script []byte
		lines  []string
	}{
		"no place": {script, []string{"SECRET"}}, "twice": {with, []string{"SECRET"}}, "no lines": {without, nil},
		"a line of nothing": {without, []string{""}}, "two lines in one": {without, []string{"SECRET\nx"}},
		"too long": {without, []string{"SECRET" + strings.Repeat("x", maxInput)}},
	} {
		got, err := WithInput(c.script, c.lines)
		if got != nil || !errors.Is(err, ErrScript) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestParseDirectives(t *testing.T) {
	t.Parallel()
	got, err := ParseDirectives("#!/bin/bash\n#SBATCH --a=1 --b='x \"y' --c=\"p\\\"q\\\\ #r\" # comment --d\n" +
		" # other\n\n#SBATCH --e\necho\n#SBATCH --f=1\n")
	want := []KV{{"a", "1"}, {"b", `x "y`}, {"c", `p"q\ #r`}, {"e", ""}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{`#SBATCH --a="x`, `#SBATCH --a=x\`, `#SBATCH -N 1`, "#SBATCHed --a=1"} {
		if got, err := ParseDirectives(bad); err == nil {
			t.Errorf("%s: got %q", bad, got)
		}
	}
}

// Any job name and comment that Render accepts reads back as it was, and bash accepts the script.
func FuzzRender(f *testing.F) {
	for _, s := range []string{"TIME", "'; rm -rf", "-x", `a"b\c`, "#", "é ü", "%j", "`x`"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, name, arg string) {
		s := minimal()
		s.JobName, s.Raw, s.Node.Args = name, []KV{{"comment", name}}, []string{arg}
		text, err := s.Render()
		if err != nil {
			return
		}
		got, err := ParseDirectives(string(text))
		if err != nil || got[0] != (KV{"job-name", name}) {
			t.Errorf("%q came back as %q, %v", name, got, err)
		}
	})
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"60": time.Hour, "1:30": 90 * time.Second, "00:60:00": time.Hour, "01:02:03": time.Hour + 2*time.Minute + 3*time.Second,
		"2-3": 51 * time.Hour, "1-2:3": 26*time.Hour + 3*time.Minute, "1-00:00:01": 24*time.Hour + time.Second, "infinite": 0,
	} {
		if got, err := ParseTime(in); err != nil || got != want {
			t.Errorf("ParseTime(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "0", "x", "1:2:3:4", "-5", "1-", "1--2", "1:-2", "1.5", "9999999", "1- 2", `"60"`, "::", "1-2-3"} {
		if got, err := ParseTime(bad); !errors.Is(err, ErrTime) {
			t.Errorf("ParseTime(%q) = %v, %v, want an error", bad, got, err)
		}
	}
}
