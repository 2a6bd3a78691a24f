package ui

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"github.com/sealbatch/sealbatch/internal/text"
)

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// redraws reports whether a line on w can be written over: on a terminal that does more than print.
func redraws(w io.Writer) bool {
	kind := os.Getenv("TERM")
	return IsTerminal(w) && kind != "" && kind != "dumb"
}

// columnsOf returns how many columns the terminal w has now, 80 if it does not say.
func columnsOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return 80
}

// Progress reports on something that moves bytes. It stays silent for a second; then it keeps one
// line up to date on a terminal, never longer than that is wide, and elsewhere writes a line every
// half minute and one at the end.
// Its methods may be called from several goroutines.
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
	columns     func() int
	stop        chan struct{}
	finished    bool
}

// Intervals between lines.
const (
	quietTime        = time.Second
	terminalInterval = 250 * time.Millisecond
	plainInterval    = 30 * time.Second
)

// NewProgress starts to report on out about something of total bytes (0 if
// unknown), of which done were done before: the rate is that of the others. End
// must be called at the end.
func NewProgress(out io.Writer, label string, done, total int64) *Progress {
	p := newProgress(out, label, done, total, redraws(out), time.Now)
	go p.tick()
	return p
}

func newProgress(out io.Writer, label string, done, total int64, terminal bool, now func() time.Time) *Progress {
	t := now()
	return &Progress{out: out, label: text.Printable(label), done: done, before: done, total: total, terminal: terminal, now: now,
		start: t, last: t, columns: func() int { return columnsOf(out) }, stop: make(chan struct{})}
}

// tick refreshes the line while nothing moves, so that a stall is seen as one.
func (p *Progress) tick() {
	ticker := time.NewTicker(terminalInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.mu.Lock()
			p.refresh()
			p.mu.Unlock()
		case <-p.stop:
			return
		}
	}
}

// Update reports that done of total bytes are done; a total of 0 leaves the one
// that is known.
func (p *Progress) Update(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = done
	if total > 0 {
		p.total = total
	}
	p.refresh()
}

// End writes the last line if it went well, and anything was written before or
// more than a second has passed. Of what failed it clears the line: the error
// message says why.
func (p *Progress) End(ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished {
		return
	}
	p.finished = true
	close(p.stop)
	took := p.now().Sub(p.start)
	p.clear()
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
	if !p.terminal {
		fmt.Fprintln(p.out, p.line(p.label, t.Sub(p.start)))
		return
	}
	most := p.columns() - 1 // some terminals go to the next line after the last column
	line := p.line(p.label, t.Sub(p.start))
	if over := text.Width(line) - most; over > 0 {
		line = text.Fit(p.line(text.Fit(p.label, max(minLabel, text.Width(p.label)-over)), t.Sub(p.start)), most)
	}
	width := text.Width(line)
	fmt.Fprintf(p.out, "\r%s%*s", line, min(max(p.width-width, 0), max(most-width, 0)), "")
	p.width = width
	drawn.Store(p)
}

// minLabel is how many columns of the label are kept while there is not room for everything.
const minLabel = 12

// clear takes the line off the terminal. The caller holds the lock.
func (p *Progress) clear() {
	if p.terminal && p.width > 0 {
		fmt.Fprintf(p.out, "\r%*s\r", min(p.width, p.columns()-1), "")
		p.width = 0
	}
	drawn.CompareAndSwap(p, nil)
}

// drawn is the progress whose line is on the terminal, so that what else is written there does not go on behind it.
var drawn atomic.Pointer[Progress]

// clearLine takes the line of whatever progress there is off the terminal; it comes back below what is written next.
func clearLine() {
	if p := drawn.Load(); p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.clear()
	}
}

// line returns "uploading data.sealed: 1.2 GiB of 4.0 GiB (30%), 210 MiB/s, 14 s left".
func (p *Progress) line(label string, took time.Duration) string {
	if p.total <= 0 {
		return fmt.Sprintf("%s: %s, %s", label, text.Size(p.done), rate(p.done-p.before, took))
	}
	left := "unknown time"
	if p.done > p.before {
		left = text.Span(time.Duration(float64(took) / float64(p.done-p.before) * float64(max(0, p.total-p.done))))
	}
	return fmt.Sprintf("%s: %s of %s (%d%%), %s, %s left", label, text.Size(p.done), text.Size(p.total),
		int(float64(p.done)/float64(p.total)*100), rate(p.done-p.before, took), left)
}

func rate(n int64, took time.Duration) string {
	if took <= 0 {
		return "-"
	}
	return text.Size(int64(float64(n)/took.Seconds())) + "/s"
}
