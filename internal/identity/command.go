package identity

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

// ErrCommand says that one of the site's commands is missing or failed.
var ErrCommand = errors.New("site command failed")

// commandDirs is where the site's commands are looked for. PATH is not: a
// service must not run what an environment variable names.
var commandDirs = []string{"/usr/bin", "/usr/local/bin", "/bin", "/opt/slurm/bin", "/opt/munge/bin"}

const (
	commandTimeout = 15 * time.Second
	maxStderr      = 2 << 10 // bytes kept for the error
)

// command runs one of the site's commands without a shell.
type command struct {
	path  string // absolute, or empty to look name up in commandDirs
	name  string
	args  []string
	env   []string // beside LC_ALL=C, everything the command sees
	stdin []byte
	max   int // bytes of standard output
}

// run returns the command's standard output. Errors wrap ErrCommand and, when
// it ran and failed, *exec.ExitError.
func (c command) run(ctx context.Context) ([]byte, error) {
	path, err := c.find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	x := exec.CommandContext(ctx, path, c.args...)
	x.Env = append([]string{"LC_ALL=C"}, c.env...)
	x.Dir = "/"
	x.Stdin = bytes.NewReader(c.stdin)
	x.WaitDelay = time.Second
	out, errs := bounded{max: c.max}, bounded{max: maxStderr, quiet: true}
	x.Stdout, x.Stderr = &out, &errs
	err = x.Run()
	switch {
	case out.over:
		return nil, fmt.Errorf("%w: %s wrote more than %d bytes", ErrCommand, path, c.max)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrCommand, path, ctx.Err())
	case err != nil:
		return out.buf.Bytes(), fmt.Errorf("%w: %s: %w: %.300q", ErrCommand, path, err, strings.TrimSpace(errs.buf.String()))
	}
	return out.buf.Bytes(), nil
}

func (c command) find() (string, error) {
	if c.path != "" {
		if !filepath.IsAbs(c.path) {
			return "", fmt.Errorf("%w: %q is not an absolute path", ErrCommand, c.path)
		}
		return c.path, nil
	}
	for _, d := range commandDirs {
		p := filepath.Join(d, c.name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: no %s in %s", ErrCommand, c.name, strings.Join(commandDirs, ", "))
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
