package ui

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
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
