package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

func TestMain(m *testing.M) {
	if is, err := helper(os.Args[1:]); is {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// newBench has a key and the program, and no data.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{options: options{bin: t.TempDir(), runs: 1, scale: 0.001, only: regexp.MustCompile("")},
		root: t.TempDir(), out: io.Discard, log: io.Discard, memory: map[string][]float64{}}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.sealbatch(), "../cmd/sealbatch")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does: it has compiled everything
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return b
}

// TestReading runs one part with little data: everything that is measured works,
// and nothing is left mounted.
func TestReading(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var out strings.Builder
	b.out = &out
	if err := b.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, part := range []func(context.Context) error{b.probes, b.reading, b.readingSlowly, b.opening, b.sizes} {
		if err := part(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []string{"| 1 GiB, cold, four readers | ", "| 20,000 small files, cold | ",
		"| 1,000 small files on slow storage, in order | ", "| 20 random reads of 4 KiB, 16 at once | ", "| first byte, 1 TB in 1,000 files | ",
		"| peak memory, mount of 100,000 files, find | ", "| index of 100,000 files, a file | ",
		"| probe: reading 1 GiB of zeros by FUSE, four readers | ", "| probe: one FUSE request and answer of 4 KiB | "} {
		if !strings.Contains(out.String(), "\n"+row) {
			t.Errorf("no row %q in\n%s", row, &out)
		}
	}
	if left, err := filepath.Glob(b.path("mount-*")); err != nil || len(left) > 0 {
		t.Errorf("mount points are left: %v, %v", left, err)
	}
}

// TestHollow opens a volume of 1 TB: its true file is whole, and reading a hole fails.
func TestHollow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.identity = b.path("identity")
	out, err := exec.Command("age-keygen", "-o", b.identity).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, key, _ := strings.Cut(strings.TrimSpace(string(out)), ": ")
	b.recipient = key
	path := b.path("tb.sealed")
	if err := b.makeHollow(t.Context(), path, 1000, 1e9); err != nil {
		t.Fatal(err)
	}
	ids, err := volume.ParseIdentityFile(b.identity, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() < 1e12 {
		t.Fatalf("%v, %v", st, err)
	}
	master, err := volume.UnwrapKey(f, st.Size(), ids...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := volume.OpenFile(path, master)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 5000)
	if n, err := r.ReadAt(1, buf, 0); n != 5000 || string(buf) != strings.Repeat("first", 1000) {
		t.Errorf("the first file: %d, %v", n, err)
	}
	if n, err := r.ReadAt(1001, buf, 0); n != 0 || err == nil {
		t.Errorf("a hole was read: %d, %v", n, err)
	}
}

// TestRows compares pair by pair.
func TestRows(t *testing.T) {
	t.Parallel()
	c := contest{what: "seal", rest: []contender{{name: "tar", goal: 2}, {name: "age", goal: 4}, {name: "cp"}}}
	second := func(n ...float64) (out []time.Duration) {
		for _, s := range n {
			out = append(out, time.Duration(s*float64(time.Second)))
		}
		return out
	}
	got := c.rows([][]time.Duration{second(1, 2, 4), second(3, 6, 4), second(2, 2, 40), second(1, 1, 1)})
	want := `| seal | 2.00 s (1.00-4.00) | tar | 4.00 s (3.00-6.00) | 3.00 (1.00-3.00) | 2 | met |
| seal | 2.00 s (1.00-4.00) | age | 2.00 s (2.00-40.0) | 2.00 (1.00-10.0) | 4 | missed |
| seal | 2.00 s (1.00-4.00) | cp | 1.00 s (1.00-1.00) | 0.500 (0.250-1.00) |  |  |
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestTurns has another contender begin in each round.
func TestTurns(t *testing.T) {
	t.Parallel()
	var order strings.Builder
	who := func(name string) contender {
		return contender{name: name, run: func(context.Context) (time.Duration, error) {
			order.WriteString(name)
			return time.Duration(order.Len()), nil
		}}
	}
	times, err := contest{ours: who("a"), rest: []contender{who("b"), who("c")}}.hold(t.Context(), 3)
	if err != nil || order.String() != "abcbcacab" {
		t.Errorf("order %s, %v", &order, err)
	}
	if len(times) != 3 || times[1][1] != 4 {
		t.Errorf("times %v", times)
	}
}

// TestImaging prepares a small image, without Apptainer.
func TestImaging(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var out strings.Builder
	b.images, b.out, b.rootfs, b.skip = true, &out, t.TempDir(), regexp.MustCompile("apptainer")
	for _, name := range []string{"usr/bin/true", "usr/share/text", "opt/more"} {
		if err := writeText(filepath.Join(b.rootfs, name), strings.Repeat(name, 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.imaging(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, size := range []string{"350", "2000"} {
		for _, what := range []string{"convert layers that are not compressed", "convert layers that are not compressed, processor time"} {
			if !strings.Contains(out.String(), "\n| image of "+size+" MB: "+what+" | ") {
				t.Errorf("no row %q of %s MB in\n%s", what, size, &out)
			}
		}
	}
	if left, err := os.ReadDir(b.path(imageDir)); !os.IsNotExist(err) {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestListFiles ends where the next file would be too much.
func TestListFiles(t *testing.T) {
	t.Parallel()
	dir, list := t.TempDir(), filepath.Join(t.TempDir(), "list")
	for name, size := range map[string]int{"a/one": 100, "b": 100, "c": 100} {
		if err := writeText(filepath.Join(dir, name), strings.Repeat("x", size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := listFiles(dir, 250, list); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(list); err != nil || string(got) != "a/one\x00b\x00" {
		t.Errorf("%q, %v", got, err)
	}
}
