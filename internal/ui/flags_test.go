package ui

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// jobFlags are those of HPCS's job-prep, in part.
type jobFlags struct {
	config, partition, time, workdir, ai, args, flags, nodelist string
	di, users, sbatch                                           []string
	n                                                           int
	follow, encrypted, whole                                    bool
}

func newJobFlags() (*Flags, *jobFlags) {
	v := &jobFlags{workdir: "/scratch"}
	f := NewFlags("sealbatch job-prep", "Submits a job.", "[EXTRA]...", "sealbatch job-prep -N 1 -p standard")
	f.String(&v.config, "configuration file", []string{"config"})
	f.Int(&v.n, 1, "number of nodes", []string{"N", "nodes"}, Required)
	f.Word(&v.partition, "partition", []string{"p", "partition"}, Required)
	f.Word(&v.time, "time limit", []string{"t", "time"})
	f.String(&v.workdir, "directory", []string{"workdir"})
	f.String(&v.ai, "image info file", []string{"ai", "application-info"})
	f.List(&v.di, "dataset info files", []string{"di", "data-info"})
	f.List(&v.users, "users", []string{"u", "users"})
	f.Strings(&v.sbatch, "raw", []string{"sbatch"})
	f.Word(&v.nodelist, "nodes", []string{"w", "nodelist"})
	f.String(&v.args, "application arguments", []string{"args", "application-args"}, Verbatim)
	f.String(&v.flags, "runtime flags", []string{"flags"}, Verbatim)
	f.Bool(&v.follow, "follow the job", []string{"f", "follow"})
	f.Bool(&v.encrypted, "encrypt", []string{"e", "encrypted"})
	f.Bool(&v.whole, "lift a protection", []string{"confirm-nothing"}, Whole)
	f.Prefer("application-info")
	return f, v
}

// The command of HPCS's README, after YAML.
func TestFlagsREADME(t *testing.T) {
	t.Parallel()
	f, v := newJobFlags()
	err := f.Parse([]string{"--config", "/tmp/hpcs-client.conf", "-N", "1", "-p", "standard", "-t", `"00:60:00"`,
		"--nodelist", "nid003044", "--workdir", "/scratch/p/e", "-ai", "/s/a.info.yaml", "-di", "/s/d.info.yaml",
		"-args", readmeArgs, "-flags", "--env TERM=xterm-256color", "-f"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := &jobFlags{config: "/tmp/hpcs-client.conf", n: 1, partition: "standard", time: "00:60:00", nodelist: "nid003044",
		workdir: "/scratch/p/e", ai: "/s/a.info.yaml", di: []string{"/s/d.info.yaml"}, args: readmeArgs,
		flags: "--env TERM=xterm-256color", follow: true}
	if !reflect.DeepEqual(v, want) {
		t.Errorf("got  %+v\nwant %+v", v, want)
	}
}

func TestFlagsSpellings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line string
		want jobFlags
		args []string
	}{
		{"-N1 -pdebug", jobFlags{n: 1, partition: "debug"}, nil},
		{"-N=2 --partition=x --nodelist=cn[1,2]", jobFlags{n: 2, partition: "x", nodelist: "cn[1,2]"}, nil},
		{"--nodes 3 -partition x -fe", jobFlags{n: 3, partition: "x", follow: true, encrypted: true}, nil},
		{"-feN4 -p x", jobFlags{n: 4, partition: "x", follow: true, encrypted: true}, nil},
		{"a -N1 b -p x c", jobFlags{n: 1, partition: "x"}, []string{"a", "b", "c"}},
		{"-N1 -p x -- -f --what", jobFlags{n: 1, partition: "x"}, []string{"-f", "--what"}},
		{"-N1 -p x --users a,b -u c", jobFlags{n: 1, partition: "x", users: []string{"a", "b", "c"}}, nil},
		{"-N1 -p x --sbatch a=1,2 --sbatch b", jobFlags{n: 1, partition: "x", sbatch: []string{"a=1,2", "b"}}, nil},
		{"-N1 -p x -di a[1,2],b --data-info c", jobFlags{n: 1, partition: "x", di: []string{"a[1,2]", "b", "c"}}, nil},
		{"-N1 -p x -args --nodes -flags -f", jobFlags{n: 1, partition: "x", args: "--nodes", flags: "-f"}, nil},
		{"-N1 -p x -args=--width=100 --follow=false", jobFlags{n: 1, partition: "x", args: "--width=100"}, nil},
		{"-N1 -p x -ai -odd", jobFlags{n: 1, partition: "x", ai: "-odd"}, nil},
		{"-N1 -p x -", jobFlags{n: 1, partition: "x"}, []string{"-"}},
		{"-N1 --p=x --nodel a,b --follo --ti 10", jobFlags{n: 1, partition: "x", nodelist: "a,b", follow: true, time: "10"}, nil},
		{"-N1 -p x --a y --enc", jobFlags{n: 1, partition: "x", ai: "y", encrypted: true}, nil},
		{"-N1 -p x -p y --nodes 2 -u a -u b", jobFlags{n: 2, partition: "y", users: []string{"a", "b"}}, nil},
	} {
		f, v := newJobFlags()
		c.want.workdir = "/scratch"
		if err := f.Parse(strings.Fields(c.line), io.Discard); err != nil {
			t.Errorf("%s: %v", c.line, err)
		} else if !reflect.DeepEqual(*v, c.want) || !reflect.DeepEqual(f.Args(), c.args) {
			t.Errorf("%s:\n got %+v %q\nwant %+v %q", c.line, *v, f.Args(), c.want, c.args)
		}
	}
}

// TestUsageFits: on a terminal no line but an example's is longer than that is wide, and nothing is lost.
func TestUsageFits(t *testing.T) {
	t.Parallel()
	f := NewFlags("sealbatch x", strings.Repeat("What it does. ", 12), "FILE", strings.Repeat("sealbatch x ", 12))
	var s string
	f.String(&s, strings.Repeat("what it means ", 20), []string{"o", "output"}, Required, repeated)
	var whole, narrow bytes.Buffer
	f.Usage(&whole)
	f.Usage(&screen{&narrow})
	for line := range strings.Lines(narrow.String()) {
		if len(line) > 40+1 && !strings.HasPrefix(line, "  sealbatch x") {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
	if got, want := strings.Fields(narrow.String()), strings.Fields(whole.String()); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if !strings.Contains(whole.String(), "(required, may be repeated)") {
		t.Errorf("%s", &whole)
	}
}

type screen struct{ *bytes.Buffer }

func (screen) Columns() int { return 40 }

func TestFlagsErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, want, hint string }{
		{"", "--nodes and --partition are required", "--help"},
		{"-N 1", "--partition is required", "--help"},
		{"-N 0 -p x", `-N "0": is not a whole number from 1 on`, "--help"},
		{"-N x -p x", `is not a whole number`, "--help"},
		{"-N 1 -p -t 10", "-p needs a value", "--partition=VALUE"},
		{"-N 1 -p", "-p needs a value", "--partition=VALUE"},
		{"-N 1 -p x --nodlist a", "unknown flag --nodlist", "did you mean --nodelist?"},
		{"-N 1 -partiton x", "unknown flag -partiton", "did you mean --partition?"},
		{"-N 1 -p x -fx", "unknown flag -fx", ""},
		{"-N 1 -p x --zzzzzzzz=1", "unknown flag --zzzzzzzz", "--help"},
		{"-N 1 -p x --node y", "--node could be --nodes or --nodelist", "in full"},
		{"-N 1 -p --nodel a", "-p needs a value", "--partition=VALUE"},
		{"-N 1 -p x --conf=a", "--conf could be --config or --confirm-nothing", "in full"},
		{"-N 1 -p x --confirm", "unknown flag --confirm", "did you mean --confirm-nothing?"},
		{"-N 1 -p x --list y", "unknown flag --list", "did you mean --nodelist?"},
		{"-N 1 -p x --users a,,b", "has an empty item", "--help"},
		{"-N 1 -p x --follow=perhaps", "neither true nor false", "--help"},
	} {
		f, _ := newJobFlags()
		err := f.Parse(strings.Fields(c.line), io.Discard)
		if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(fault.Hint(err), c.hint) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: got %v (hint %q, class %s), want %s (hint %s)", c.line, err, fault.Hint(err), fault.ClassOf(err), c.want, c.hint)
		}
	}
	f := NewFlags("x", "", "", "")
	if err := f.Parse([]string{"surplus"}, io.Discard); err == nil || !strings.Contains(err.Error(), `unexpected argument "surplus"`) {
		t.Errorf("got %v", err)
	}
}

// What a flag would not be heard for beside another is refused, all of it at once.
func TestFlagsAlone(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"-N 1 -p x -args y":                     "",
		"-e -f":                                 "", // the required ones are not asked for
		"-e -f -args y --time 10 --sbatch hold": "--time, --sbatch, --application-args have no effect beside --encrypted",
		"-e -N 2":                               "--nodes has no effect beside --encrypted",
	} {
		f, _ := newJobFlags()
		f.defs[1].unless, f.defs[2].unless = "encrypted", "encrypted"
		f.Alone("encrypted", "do without", "f", "config")
		err := f.Parse(strings.Fields(line), io.Discard)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || fault.Hint(err) != "do without") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestFlagsHelp(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"--help", "-h", "-N 1 -help"} {
		f, _ := newJobFlags()
		var out strings.Builder
		if err := f.Parse(strings.Fields(line), &out); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", line, err)
		}
		for _, want := range []string{"Usage: sealbatch job-prep [flags] [EXTRA]...", "Example:\n  sealbatch job-prep -N 1",
			"-N, --nodes VALUE\n", "number of nodes (required)",
			"-ai, --application-info VALUE", "-flags VALUE", "-f, --follow\n", "(default /scratch)", "raw (may be repeated)"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: help lacks %q:\n%s", line, want, out.String())
			}
		}
	}
}

// Of what is given more than once the last counts, and where that is not the same, it is said.
func TestFlagsTwice(t *testing.T) {
	t.Parallel()
	f, _ := newJobFlags()
	if err := f.Parse(strings.Fields("-N1 -p x --nodes 1 --partition y -u a -u b -f --follow=false"), io.Discard); err != nil {
		t.Fatal(err)
	}
	want := []string{"--partition is given more than once: the last one counts, y",
		"--follow is given more than once: the last one counts, false"}
	if !slices.Equal(f.Notes(), want) {
		t.Errorf("%q\nwant %q", f.Notes(), want)
	}
}

func FuzzFlags(f *testing.F) {
	f.Add("-N1\n-p\nx\n--\n-args")
	f.Add("-=\n--=\n-fe=\n-\n---")
	f.Fuzz(func(t *testing.T, s string) {
		flags, _ := newJobFlags()
		if err := flags.Parse(strings.Split(s, "\n"), io.Discard); err != nil && !errors.Is(err, ErrUsage) && !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%q: %v", s, err)
		}
	})
}
