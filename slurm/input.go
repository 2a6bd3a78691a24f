package slurm

import (
	"bytes"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/shellwords"
)

// inputPart begins what the nodes get on standard input. Tracing and traps, which the site's lines may have
// switched on, would write it to the log. So would bash, which shows the text of a pipeline of which something died
// by a signal: but not that of a function in it, which is not exported either (-a).
const inputPart = `
# Secret from here on: what the nodes get on standard input, since it must be in no argument, no
# environment and no file. Only its submitter may read this script.
{ set +axv; trap - DEBUG ERR; } 2>/dev/null
`

// leftOut begins the line that stands for the input in a rendered script.
const leftOut = `printf "sealbatch: %s\n" "this copy of the script is not for submission, for want of its" `

// maxInput bounds a line of the nodes' input, in bytes.
const maxInput = 4096

// NeedsInput reports whether a script is one whose nodes' input is left out.
func NeedsInput(script []byte) bool {
	at := bytes.LastIndex(script, []byte(inputPart))
	return at >= 0 && bytes.HasPrefix(script[at+len(inputPart):], []byte(leftOut))
}

// WithInput returns a script that NeedsInput with lines in the place of what was left out: every node
// gets all of them on standard input. The script is a secret from then on. Errors wrap ErrScript, and
// do not show the lines.
func WithInput(script []byte, lines []string) ([]byte, error) {
	if !NeedsInput(script) || len(lines) == 0 {
		return nil, fmt.Errorf("%w: there is no place in it for the nodes' input, or there is none", ErrScript)
	}
	at := bytes.LastIndex(script, []byte(inputPart)) + len(inputPart)
	_, srun, _ := bytes.Cut(script[at:], []byte("\n"))
	var b bytes.Buffer
	b.Write(script[:at])
	b.WriteString("input() {\n  builtin printf '%s\\n'")
	for i, line := range lines {
		if line == "" || len(line) > maxInput || checkText("input", line) != nil {
			return nil, fmt.Errorf("%w: line %d of the nodes' input is not 1 to %d bytes of printable text", ErrScript, i+1, maxInput)
		}
		b.WriteString(" \\\n    " + shellwords.QuoteArgs(line))
	}
	b.WriteString("\n}\ninput |\n")
	b.Write(srun)
	return b.Bytes(), nil
}
