package sshconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/text"
)

// Bounds of one question to ssh: it may run commands of `Match exec`, and look names up.
const (
	askTime   = 30 * time.Second
	maxAnswer = 1 << 20 // bytes
	maxWords  = 2 << 10 // bytes of what it says when it fails
)

// ask runs ssh -G, without a shell.
func ask(ctx context.Context, ssh string, q Query) (Values, error) {
	args := []string{"-G"}
	if q.File != "" {
		file := q.File
		if file != "none" {
			var err error
			if file, err = filepath.Abs(file); err != nil {
				return nil, err
			}
		}
		args = append(args, "-F", file)
	}
	if q.User != "" {
		args = append(args, "-l", q.User)
	}
	if q.Port != 0 {
		args = append(args, "-p", strconv.Itoa(q.Port))
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, ssh, append(args, "--", q.Host)...)
	cmd.WaitDelay = time.Second
	out, words := &bounded{max: maxAnswer}, &bounded{max: maxWords}
	cmd.Stdout, cmd.Stderr = out, words
	err := cmd.Run()
	switch {
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return nil, fmt.Errorf("%w: ssh -G %s gave no answer in %v; does a command of Match exec hang?", ErrConfig, q.Host, askTime)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case out.over:
		return nil, fmt.Errorf("%w: ssh -G %s wrote more than %d bytes", ErrConfig, q.Host, maxAnswer)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, complaint(q.Host, words.String(), err)
	}
	return parseAnswer(out.String())
}

// complaint is the error of an ssh that failed, with its first words.
func complaint(host, words string, err error) error {
	for line := range strings.Lines(words) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "Pseudo-terminal") {
			return fmt.Errorf("%w: ssh -G %s says: %s", ErrConfig, host, text.Printable(line))
		}
	}
	return fmt.Errorf("%w: ssh -G %s fails: %w", ErrConfig, host, err)
}

// parseAnswer reads what ssh -G writes: a keyword and a value a line.
func parseAnswer(s string) (Values, error) {
	v := Values{}
	for line := range strings.Lines(s) {
		keyword, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok {
			continue
		}
		if kind, used := Keywords[keyword]; used {
			if kind == files {
				v[keyword] = splitFiles(value)
			} else {
				v[keyword] = append(v[keyword], value)
			}
		}
	}
	if v.Get("hostname") == "" {
		return nil, fmt.Errorf("%w: ssh -G named no host", ErrConfig)
	}
	if v.Get("connecttimeout") == "none" {
		delete(v, "connecttimeout")
	}
	return v, nil
}

// splitFiles takes a list of files apart. ssh -G does not quote the blanks in a name: the name is the
// longest row of words that is there, else the word.
func splitFiles(s string) (out []string) {
	for words := strings.Split(s, " "); len(words) > 0; {
		n := 1
		for end := len(words); end > 1; end-- {
			if _, err := os.Stat(strings.Join(words[:end], " ")); err == nil {
				n = end
				break
			}
		}
		if name := strings.Join(words[:n], " "); name != "" {
			out = append(out, name)
		}
		words = words[n:]
	}
	return out
}

// bounded keeps the first max bytes. The buffer is not embedded: its ReadFrom would go around Write.
type bounded struct {
	buf  bytes.Buffer
	max  int
	over bool
}

// Write implements io.Writer; it takes everything, so that the command ends by itself.
func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.buf.Len(); len(p) > room {
		b.over = true
		b.buf.Write(p[:room])
		return len(p), nil
	}
	return b.buf.Write(p)
}

func (b *bounded) String() string { return b.buf.String() }
