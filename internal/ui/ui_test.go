package ui

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// readmeArgs is the -args value of HPCS's README once YAML's own quoting is off.
const readmeArgs = `"\" /sd-container/encrypted/jp2a_input/image.png --width=100 --output=/sd-container/output/result \""`

func TestPrintError(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	PrintError(&out, fault.New(fault.Slurm, errors.New("a\x1b[31m\nb\u202e"), "do\x07 c"))
	if want := "error: a\\u001b[31m\n  b\\u202e\nhint: do\\u0007 c\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
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
			"\r" + strings.Repeat(" ", 49) + "\r" + last},
		{"plain", false, 4 << 20, "up: 3.0 MiB of 4.0 MiB (75%), 96 KiB/s, 11 s left\n" + last},
		{"unknown size", false, 0, "up: 3.0 MiB, 96 KiB/s\n" + last},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			now := time.Unix(0, 0)
			p := newProgress(&out, "up", 0, c.total, c.terminal, func() time.Time { return now })
			p.Update(1<<20, 0) // within the first second: silent
			now = now.Add(2 * time.Second)
			p.Update(2<<20, 0)
			now = now.Add(30 * time.Second)
			p.Update(3<<20, 0)
			p.Update(4<<20, 0) // too soon after the line before
			now = now.Add(time.Second)
			p.End(true)
			p.End(true)
			p.Update(5<<20, 0)
			if out.String() != c.want {
				t.Errorf("got  %q\nwant %q", out.String(), c.want)
			}
		})
	}
}

// TestProgressFits: a line is never longer than the terminal is wide at that moment, less the last column.
func TestProgressFits(t *testing.T) {
	t.Parallel()
	for _, label := range []string{"up", "uploading " + strings.Repeat("long-name-", 30), "sealing " + strings.Repeat("ゲノム", 40)} {
		for _, columns := range []int{200, 80, 40, 20, 5, 1} {
			var out bytes.Buffer
			now := time.Unix(0, 0)
			p := newProgress(&out, label, 0, 4<<30, true, func() time.Time { return now })
			p.columns = func() int { return 80 }
			now = now.Add(2 * time.Second)
			p.Update(1<<30, 0)
			p.columns = func() int { return columns } // resized
			now = now.Add(2 * time.Second)
			p.Update(2<<30, 0)
			lines := strings.Split(out.String(), "\r")
			if got := text.Width(lines[len(lines)-1]); got > columns-1 {
				t.Errorf("%.10s in %d columns: %d, %q", label, columns, got, lines)
			}
			if columns == 80 && !strings.Contains(out.String(), "2.0 GiB of 4.0 GiB (50%), 512 MiB/s, 4.0 s left") {
				t.Errorf("%.10s: the numbers are cut, not the name: %q", label, out.String())
			}
		}
	}
}

// TestLogBelowProgress: what is logged does not go on behind a progress line.
func TestLogBelowProgress(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := newProgress(&out, "up", 0, 0, true, func() time.Time { return now })
	now = now.Add(2 * time.Second)
	p.Update(1<<20, 0)
	slog.New(NewLogHandler(&out)).Warn("look")
	p.End(false)
	if want := "\rup: 1.0 MiB, 512 KiB/s\r" + strings.Repeat(" ", 22) + "\rwarning: look\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// TestProgressBefore: what was done before counts as done, and not for the rate.
func TestProgressBefore(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := newProgress(&out, "up", 2<<20, 0, false, func() time.Time { return now })
	now = now.Add(32 * time.Second)
	p.Update(3<<20, 4<<20)
	now = now.Add(32 * time.Second)
	p.Update(4<<20, 4<<20)
	p.End(true)
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
	p := NewProgress(&out, "x", 0, 10)
	p.Update(10, 10)
	p.End(true)
	if out.Len() != 0 {
		t.Errorf("wrote %q", out.String())
	}
}
