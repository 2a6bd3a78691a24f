// Package sitecmd runs the site's own commands, such as munge and squeue, without
// a shell, within a time, and with bounded output.
package sitecmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ErrFailed says that one of the site's commands is missing or failed.
var ErrFailed = errors.New("site command failed")

// commandDirs is where the site's commands are looked for. PATH is not: a
// service must not run what an environment variable names.
var commandDirs = []string{"/usr/bin", "/usr/local/bin", "/bin", "/opt/slurm/bin", "/opt/munge/bin"}

const (
	commandTimeout = 15 * time.Second
	maxStderr      = 2 << 10 // bytes kept for the error
)

// Command runs one of the site's commands without a shell.
type Command struct {
	Path      string // absolute, or empty to look Name up in the usual directories
	Name      string
	Args      []string
	Env       []string // beside LC_ALL=C, everything the command sees
	Stdin     []byte
	MaxOutput int // bytes of standard output
}

// Run returns the command's standard output. Errors wrap ErrFailed and, when
// it ran and failed, *exec.ExitError.
func (c Command) Run(ctx context.Context) ([]byte, error) {
	path, err := c.find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	x := exec.CommandContext(ctx, path, c.Args...)
	x.Env = append([]string{"LC_ALL=C"}, c.Env...)
	x.Dir = "/"
	x.Stdin = bytes.NewReader(c.Stdin)
	x.WaitDelay = time.Second
	out, errs := bounded{max: c.MaxOutput}, bounded{max: maxStderr, quiet: true}
	x.Stdout, x.Stderr = &out, &errs
	err = x.Run()
	switch {
	case out.over:
		return nil, fmt.Errorf("%w: %s wrote more than %d bytes", ErrFailed, path, c.MaxOutput)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrFailed, path, ctx.Err())
	case err != nil:
		return out.buf.Bytes(), fmt.Errorf("%w: %s: %w: %.300q", ErrFailed, path, err, strings.TrimSpace(errs.buf.String()))
	}
	return out.buf.Bytes(), nil
}

func (c Command) find() (string, error) {
	if c.Path != "" {
		if !filepath.IsAbs(c.Path) {
			return "", fmt.Errorf("%w: %q is not an absolute path", ErrFailed, c.Path)
		}
		return c.Path, nil
	}
	for _, d := range commandDirs {
		p := filepath.Join(d, c.Name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: no %s in %s", ErrFailed, c.Name, strings.Join(commandDirs, ", "))
}

// bounded keeps the first max bytes. Beyond them it fails, which ends the
// command, or stays quiet. The buffer is not embedded: its ReadFrom would let
// io.Copy go around Write.
type bounded struct {
	buf   bytes.Buffer
	max   int
	quiet bool
	over  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.buf.Len(); len(p) > room {
		if b.quiet {
			b.buf.Write(p[:room])
			return len(p), nil
		}
		b.over = true
		return 0, errors.New("too much output")
	}
	return b.buf.Write(p)
}
