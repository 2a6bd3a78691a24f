package ui

import (
	"bytes"
	"errors"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// readmeArgs is the -args value of HPCS's README once YAML's own quoting is off.
const readmeArgs = `"\" /sd-container/encrypted/jp2a_input/image.png --width=100 --output=/sd-container/output/result \""`

func TestSplitArgs(t *testing.T) {
	t.Parallel()
	jp2a := []string{"/sd-container/encrypted/jp2a_input/image.png", "--width=100", "--output=/sd-container/output/result"}
	for _, c := range []struct {
		in   string
		want []string
	}{
		{readmeArgs, jp2a},
		// the same with one layer of quotes fewer, one more, and with the YAML escapes still in place
		{`" ` + strings.Join(jp2a, " ") + ` "`, jp2a},
		{`"\"\\\" ` + strings.Join(jp2a, " ") + ` \\\"\""`, jp2a},
		{`\" ` + strings.Join(jp2a, " ") + ` \"`, jp2a},
		{strings.Join(jp2a, " "), jp2a},
		{"--env TERM=xterm-256color", []string{"--env", "TERM=xterm-256color"}},
		{"", nil},
		{"  \t ", nil},
		{`""`, nil},
		{`''`, []string{""}},
		{`a "" b`, []string{"a", "", "b"}},
		{`'a b'`, []string{"a b"}},
		{`"a b" c`, []string{"a b", "c"}},
		{`"a" "b"`, []string{"a", "b"}},
		{`"a b"`, []string{"a", "b"}},
		{`"it's"`, []string{"it's"}},
		{`a\ b 'it'\''s' "x\"y\\z\n"`, []string{"a b", "it's", `x"y\z\n`}},
		{"$(touch x) `y` $HOME * ~ #z", []string{"$(touch", "x)", "`y`", "$HOME", "*", "~", "#z"}},
		{"a\nb", []string{"a", "b"}},
	} {
		if got, err := SplitArgs(c.in); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("SplitArgs(%s) = %q, %v, want %q", c.in, got, err, c.want)
		}
	}
	for _, bad := range []string{`'a`, `"a`, `a\`, "a\x00b", `x "it's`} {
		if got, err := SplitArgs(bad); err == nil {
			t.Errorf("SplitArgs(%q) = %q, want an error", bad, got)
		}
	}
}

func TestUnquote(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`"00:60:00"`: "00:60:00", `00:60:00`: "00:60:00", `'x'`: "x", `"\"x\""`: "x", `\"x\"`: "x",
		`"`: `"`, `a"b`: `a"b`, `"a" "b"`: `"a" "b"`, ` x y `: "x y", `""`: "",
	} {
		if got := Unquote(in); got != want {
			t.Errorf("Unquote(%s) = %q, want %q", in, got, want)
		}
	}
}

// A shell, and SplitArgs itself, read back what QuoteArgs wrote.
func TestQuoteArgs(t *testing.T) {
	t.Parallel()
	words := []string{"", "a", "a b", "it's", `\`, `"`, "$(touch x)", "`x`", "-f", "*", "~", "!x", "=ls", "a\nb", "é", "x;y", "\x01"}
	line := QuoteArgs(words...)
	out, err := exec.Command("sh", "-c", `printf '%s\0' `+line).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !reflect.DeepEqual(got, words) {
		t.Errorf("sh read %q from %s", got, line)
	}
	if QuoteArgs("scancel", "12_3", "--name=a") != "scancel 12_3 --name=a" {
		t.Errorf("plain words are quoted: %s", QuoteArgs("scancel", "12_3", "--name=a"))
	}
}

func FuzzQuoteSplit(f *testing.F) {
	f.Add("a", "b c")
	f.Add("it's", `\"`)
	f.Fuzz(func(t *testing.T, a, b string) {
		got, _, err := split(QuoteArgs(a, b))
		if err != nil || !reflect.DeepEqual(got, []string{a, b}) {
			t.Errorf("%q %q came back as %q, %v", a, b, got, err)
		}
	})
}

func FuzzSplitArgs(f *testing.F) {
	f.Add(readmeArgs)
	f.Add(`\"\"\"`)
	f.Fuzz(func(t *testing.T, s string) {
		words, err := SplitArgs(s)
		if err == nil && len(strings.Join(words, "")) > len(s) {
			t.Errorf("%q grew into %q", s, words)
		}
	})
}

func TestPrintError(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	PrintError(&out, fault.New(fault.Slurm, errors.New("a\x1b[31m\nb\u202e"), "do\x07 c"))
	if want := "error: a\\u001b[31m\n  b\\u202e\nhint: do\\u0007 c\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

func TestSizeAndSpan(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 10 << 20: "10 MiB", 1 << 62: "4.0 EiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "0 s", 400 * time.Millisecond: "0.4 s", 12 * time.Second: "12 s",
		185 * time.Second: "3 min 05 s", 2*time.Hour + 10*time.Minute: "2 h 10 min"} {
		if got := Span(d); got != want {
			t.Errorf("Span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	const last = "up: 4.0 MiB in 33 s (124 KiB/s)\n"
	for _, c := range []struct {
		name     string
		terminal bool
		total    int64
		want     string
	}{
		{"terminal", true, 4 << 20, "\rup: 2.0 MiB of 4.0 MiB (50%), 1.0 MiB/s, 2.0 s left" +
			"\rup: 3.0 MiB of 4.0 MiB (75%), 96 KiB/s, 11 s left  " + // blanks cover the longer line
			"\r" + strings.Repeat(" ", 51) + "\r" + last},
		{"plain", false, 4 << 20, "up: 3.0 MiB of 4.0 MiB (75%), 96 KiB/s, 11 s left\n" + last},
		{"unknown size", false, 0, "up: 3.0 MiB, 96 KiB/s\n" + last},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			now := time.Unix(0, 0)
			p := newProgress(&out, "up", c.total, c.terminal, func() time.Time { return now })
			p.Set(1 << 20) // within the first second: silent
			now = now.Add(2 * time.Second)
			p.Add(1 << 20)
			now = now.Add(30 * time.Second)
			p.Add(1 << 20)
			p.Add(1 << 20) // too soon after the line before
			now = now.Add(time.Second)
			p.Finish()
			p.Finish()
			p.Add(1)
			if out.String() != c.want {
				t.Errorf("got  %q\nwant %q", out.String(), c.want)
			}
		})
	}
	var none *Progress
	none.Add(1)
	none.Finish()
}

// TestProgressStartAt: what was done before counts as done, and not for the rate.
func TestProgressStartAt(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := newProgress(&out, "up", 4<<20, false, func() time.Time { return now })
	p.StartAt(2 << 20)
	now = now.Add(32 * time.Second)
	p.Set(3 << 20)
	now = now.Add(32 * time.Second)
	p.Set(4 << 20)
	p.Finish()
	const want = "up: 3.0 MiB of 4.0 MiB (75%), 32 KiB/s, 32 s left\n" +
		"up: 4.0 MiB of 4.0 MiB (100%), 32 KiB/s, 0.0 s left\nup: 4.0 MiB, the last 2.0 MiB in 1 min 04 s (32 KiB/s)\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
}

// Something that takes less than a second says nothing.
func TestProgressQuiet(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := NewProgress(&out, "x", 10)
	p.Add(10)
	p.Finish()
	if out.Len() != 0 {
		t.Errorf("wrote %q", out.String())
	}
}
