package jobdir

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// LeftEntry is something of a job's outputs that could not be kept, or not as a whole.
type LeftEntry struct{ Path, Reason string }

// MaxLeft bounds the list of what was left, and MaxLeftFile the file LeftName, in bytes.
const (
	MaxLeft     = 1 << 20
	MaxLeftFile = MaxLeft + 256<<10
)

// errLeft: a list that AppendLeft has not made.
var errLeft = errors.New("the list of what could not be kept is damaged")

// AppendLeft appends an entry to the plaintext of LeftName: a line of the path, quoted as in Go
// since it can be any bytes, a space, and the reason. What does not fit below MaxLeft is left out.
func AppendLeft(list []byte, e LeftEntry) []byte {
	line := strconv.Quote(e.Path) + " " + strings.ReplaceAll(e.Reason, "\n", " ") + "\n"
	if len(list)+len(line) > MaxLeft {
		return list
	}
	return append(list, line...)
}

// ParseLeft reads what AppendLeft has made.
func ParseLeft(list string) ([]LeftEntry, error) {
	var all []LeftEntry
	if len(list) > MaxLeft {
		return nil, errLeft
	}
	for line := range strings.Lines(list) {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errLeft, err)
		}
		path, err := strconv.Unquote(quoted)
		reason, space := strings.CutPrefix(line[len(quoted):], " ")
		reason, end := strings.CutSuffix(reason, "\n")
		if err != nil || !space || !end {
			return nil, errLeft
		}
		all = append(all, LeftEntry{path, reason})
	}
	return all, nil
}
