package ui

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/text"

	"golang.org/x/term"
)

// IsTerminal tells whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Progress reports on something that moves bytes. It stays silent for a second; then it keeps one
// line up to date on a terminal, and elsewhere writes a line every half minute and one at the end.
// Its methods may be called from several goroutines, and on a nil *Progress.
type Progress struct {
	out      io.Writer
	label    string
	total    int64
	terminal bool
	now      func() time.Time

	mu          sync.Mutex
	done        int64
	before      int64 // of them, not part of the rate
	start, last time.Time
	width       int // of the line on the terminal
	stop        chan struct{}
	finished    bool
}

// Intervals between lines.
const (
	quietTime        = time.Second
	terminalInterval = 250 * time.Millisecond
	plainInterval    = 30 * time.Second
)

// NewProgress starts to report on out about something of total bytes (0 if unknown). Finish or
// Abandon must be called at the end.
func NewProgress(out io.Writer, label string, total int64) *Progress {
	p := newProgress(out, label, total, IsTerminal(out), time.Now)
	go p.tick()
	return p
}

func newProgress(out io.Writer, label string, total int64, terminal bool, now func() time.Time) *Progress {
	t := now()
	return &Progress{out: out, label: text.Printable(label), total: total, terminal: terminal, now: now,
		start: t, last: t, stop: make(chan struct{})}
}

// tick refreshes the line while nothing moves, so that a stall is seen as one.
func (p *Progress) tick() {
	ticker := time.NewTicker(terminalInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.Add(0)
		case <-p.stop:
			return
		}
	}
}

// Add says that n more bytes are done.
func (p *Progress) Add(n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	p.refresh()
}

// Set says that n bytes are done in all.
func (p *Progress) Set(n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = n
	p.refresh()
}

// StartAt says that n bytes were done before: the rate is that of the others.
func (p *Progress) StartAt(n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before, p.done = n, max(n, p.done)
}

// SetTotal says how many bytes there are, once it is known.
func (p *Progress) SetTotal(n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total = n
}

// Finish writes the last line, if anything was written before or more than a second has passed.
func (p *Progress) Finish() { p.end(true) }

// Abandon clears the line of something that failed; the error message says why.
func (p *Progress) Abandon() { p.end(false) }

func (p *Progress) end(ok bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished {
		return
	}
	p.finished = true
	close(p.stop)
	took := p.now().Sub(p.start)
	if p.terminal && p.width > 0 {
		fmt.Fprintf(p.out, "\r%*s\r", p.width, "")
	}
	if !ok || took < quietTime {
		return
	}
	last := ""
	if p.before > 0 {
		last = ", the last " + text.Size(p.done-p.before)
	}
	fmt.Fprintf(p.out, "%s: %s%s in %s (%s)\n", p.label, text.Size(p.done), last, text.Span(took), rate(p.done-p.before, took))
}

// refresh writes a line if one is due. The caller holds the lock.
func (p *Progress) refresh() {
	t := p.now()
	interval := plainInterval
	if p.terminal {
		interval = terminalInterval
	}
	if p.finished || t.Sub(p.start) < quietTime || t.Sub(p.last) < interval {
		return
	}
	p.last = t
	line := p.line(t.Sub(p.start))
	if !p.terminal {
		fmt.Fprintln(p.out, line)
		return
	}
	fmt.Fprintf(p.out, "\r%-*s", p.width, line)
	p.width = max(p.width, len(line))
}

// line gives "uploading data.sealed: 1.2 GiB of 4.0 GiB (30%), 210 MiB/s, 14 s left".
func (p *Progress) line(took time.Duration) string {
	if p.total <= 0 {
		return fmt.Sprintf("%s: %s, %s", p.label, text.Size(p.done), rate(p.done-p.before, took))
	}
	left := "unknown time"
	if p.done > p.before {
		left = text.Span(time.Duration(float64(took) / float64(p.done-p.before) * float64(max(0, p.total-p.done))))
	}
	return fmt.Sprintf("%s: %s of %s (%d%%), %s, %s left", p.label, text.Size(p.done), text.Size(p.total),
		int(float64(p.done)/float64(p.total)*100), rate(p.done-p.before, took), left)
}

func rate(n int64, took time.Duration) string {
	if took <= 0 {
		return "-"
	}
	return text.Size(int64(float64(n)/took.Seconds())) + "/s"
}
