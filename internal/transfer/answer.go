package transfer

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/sealbatch/sealbatch/internal/shellwords"
)

// What a login shell's start-up files print, and what runs when it ends, stands on the same streams as a command's
// answer. So the answer is found between two marks, on both streams:
//
//	whatever MARK< the answer MARK>EXIT LF whatever
//
// MARK is random for each command, and EXIT the command's exit status in three digits. MARK tells noise from the answer,
// and is no secret: it stands in the shell's command line, which others on a login node without hidepid can read in
// /proc. Who has read it in time, and has the command print it, as by the name of a file that it lists, ends the
// answer early, with an exit status of their choice. So what a command writes to its standard output must not hold
// names or texts of others, unless they are escaped.
//
// sshd hands a command's line to whatever login shell the user has, so the line is one that sh, csh, zsh and fish read
// alike, and has POSIX's shell do the rest: it has no character that any of them takes for something else.
const (
	markBytes = 16
	statusLen = len("000\n")
	// chunk is how long a word of the line gets: some shells have a limit of a thousand characters.
	chunk = 900
)

// newMark returns a mark.
func newMark() string {
	b := make([]byte, markBytes)
	rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// shellLine returns the line for a login shell that runs argv between marks. The marks are put together at
// the site, so that a shell that prints what it runs (set -x, set -v) does not print them.
func shellLine(argv []string, mark string) string {
	half := len(mark) / 2
	say := func(format string) string {
		line := "printf '%s%s" + format + "' " + mark[:half] + " " + mark[half:]
		return line + " $s; " + line + " $s >&2"
	}
	// Where sh is bash, it takes over functions and options that start-up files have exported.
	text := "set +eux; [ -z \"${BASH_VERSION-}\" ] || unset -f $(compgen -A function); unset ENV BASH_ENV CDPATH; s=; " +
		say("<%.0s") + "; " + shellwords.QuoteArgs(argv...) + "; s=$?; " + say(`>%03d\n`) + "; exit $s"
	line := `exec /bin/sh -c 'eval "$(printf %b "$@")"' sealbatch`
	var word strings.Builder
	for i := range len(text) {
		if word.Len() >= chunk {
			line += " '" + word.String() + "'"
			word.Reset()
		}
		if c := text[i]; strings.IndexByte(harmless, c) >= 0 {
			word.WriteByte(c)
		} else {
			fmt.Fprintf(&word, `\0%03o`, c)
		}
	}
	return line + " '" + word.String() + "'"
}

// harmless is what single quotes keep as it is in every shell; anything else, such as a quote, a backslash, csh's
// exclamation mark or a line's end, is written as POSIX's printf %b reads it.
const harmless = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _./:=,@%+-\"$&|;(){}[]<>*?#~"

// maxNoise is how much of what came before an answer is kept, to be shown if there is none.
const maxNoise = 400

// answer takes one stream and finds the answer in it. Its memory is bounded, however much there is besides.
type answer struct {
	mark  string
	noise []byte // how the stream began
	buf   []byte // before the answer begins, what may be a part of its mark; then the answer so far
	begun bool
	ended bool
	over  bool // it is longer than maxOutput
	exit  int
}

// Write takes what has come. It never fails.
func (a *answer) Write(p []byte) (int, error) {
	switch {
	case a.ended || a.over:
	case !a.begun:
		a.noise = append(a.noise, p[:min(len(p), maxNoise-len(a.noise))]...)
		a.buf = append(a.buf, p...)
		if _, rest, ok := bytes.Cut(a.buf, []byte(a.mark+"<")); ok {
			a.begun, a.noise, a.buf = true, nil, nil
			_, _ = a.Write(rest)
			return len(p), nil
		}
		a.buf = append(a.buf[:0], a.buf[max(0, len(a.buf)-len(a.mark)):]...)
	default:
		from := max(0, len(a.buf)-len(a.mark)-statusLen) // where the second mark may begin
		a.buf = append(a.buf, p...)
		a.end(from)
	}
	return len(p), nil
}

// end looks for the second mark from an offset on.
func (a *answer) end(from int) {
	at := bytes.Index(a.buf[from:], []byte(a.mark+">"))
	if at < 0 {
		a.over = len(a.buf) > maxOutput+len(a.mark)+statusLen
		return
	}
	status := a.buf[from+at+len(a.mark)+1:]
	if len(status) < statusLen {
		return
	}
	if _, err := fmt.Sscanf(string(status[:statusLen]), "%03d\n", &a.exit); err != nil {
		return // not a mark that shellLine's text wrote
	}
	a.ended, a.buf = true, a.buf[:from+at]
	a.over = len(a.buf) > maxOutput
}
