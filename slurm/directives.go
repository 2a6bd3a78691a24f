package slurm

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// KV is an sbatch option without its dashes. An empty Value stands for an option without one.
type KV struct{ Key, Value string }

// ErrScript is wrapped by errors about what a Script holds.
var ErrScript = errors.New("cannot write the batch script")

const directive = "#SBATCH"

// renderDirective writes one option by Slurm's quoting rules (_get_argument in Slurm's
// src/sbatch/opt.c): inside double quotes a backslash protects any character.
func renderDirective(o KV) string {
	if o.Value == "" {
		return directive + " --" + o.Key
	}
	value := o.Value
	if strings.Trim(value, plainValue) != "" {
		value = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
	}
	return directive + " --" + o.Key + "=" + value
}

// plainValue needs no quotes in a directive.
const plainValue = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=,@%+-[]()&|*"

// ParseDirectives reads the options from a batch script as sbatch does: #SBATCH lines up to the
// first command; in them quotes of either kind group, a backslash protects the next character and an
// unprotected # begins a comment. Only long options with = are understood, which Render writes.
func ParseDirectives(script string) ([]KV, error) {
	var out []KV
	for number, line := range strings.Split(script, "\n") {
		rest, ok := strings.CutPrefix(line, directive)
		if !ok {
			if t := strings.TrimSpace(line); t != "" && t[0] != '#' {
				break // sbatch stops at the first command
			}
			continue
		}
		for {
			word, tail, err := nextWord(rest)
			if err != nil {
				return nil, fmt.Errorf("%w: line %d: %w", ErrScript, number+1, err)
			}
			if word == "" {
				break
			}
			option, long := strings.CutPrefix(word, "--")
			if !long {
				return nil, fmt.Errorf("%w: line %d: %q is not a long option", ErrScript, number+1, word)
			}
			key, value, _ := strings.Cut(option, "=")
			out = append(out, KV{key, value})
			rest = tail
		}
	}
	return out, nil
}

// nextWord returns the next word of a directive line and what follows; "" at the end.
func nextWord(line string) (word, rest string, err error) {
	line = strings.TrimLeft(line, " \t\v\f\r")
	var b strings.Builder
	quote := byte(0)
	i := 0
scan:
	for ; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			b.WriteByte(line[i])
		case c == '\\':
			return "", "", errors.New("ends in a backslash")
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			b.WriteByte(c)
		case c == '"' || c == '\'':
			quote = c
		case c == '#':
			i = len(line)
			break scan
		case strings.IndexByte(" \t\v\f\r", c) >= 0:
			break scan
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", "", errors.New("a quotation does not end")
	}
	return b.String(), line[min(i, len(line)):], nil
}

// checkText refuses what cannot stand in a line of text.
func checkText(name, v string) error {
	if !utf8.ValidString(v) {
		return fmt.Errorf("%w: %s is not valid UTF-8: %q", ErrScript, name, v)
	}
	for _, r := range v {
		if r < 0x20 || (r >= 0x7f && r < 0xa0) {
			return fmt.Errorf("%w: %s has a control character: %q", ErrScript, name, v)
		}
	}
	return nil
}

// checkDirective refuses what no directive can carry. Slurm blanks two words, wherever they stand in
// a line, as marks of heterogeneous jobs.
func checkDirective(o KV) error {
	if low := strings.ToLower(o.Key + "=" + o.Value); strings.Contains(low, "packjob") || strings.Contains(low, "hetjob") {
		return fmt.Errorf("%w: --%s contains a word that Slurm keeps for heterogeneous jobs: %q", ErrScript, o.Key, o.Value)
	}
	return checkText("--"+o.Key, o.Value)
}
