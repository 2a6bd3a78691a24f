package doctor

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/sealbatch/sealbatch/internal/sitecmd"
)

// maxEnviron bounds a job's environment, in bytes.
const maxEnviron = 1 << 20

// jobEnviron returns the environment that jobs get where this is the one that they
// begin with: their script runs the lines of [supercomputer] setup before anything else.
func jobEnviron(ctx context.Context, setup []string) (getenv func(string) string, err error) {
	if len(setup) == 0 {
		return os.Getenv, nil
	}
	bash := sitecmd.Command{
		Path: "/bin/bash", Env: os.Environ(), MaxOutput: maxEnviron,
		Args: []string{"-c", "exec 3>&1 >/dev/null\n" + strings.Join(setup, "\n") + "\n/usr/bin/env -0 >&3"},
	}
	out, err := bash.Run(ctx)
	if err == nil && len(out) == 0 {
		err = errors.New("they end the script")
	}
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, pair := range strings.Split(string(out), "\x00") {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	return func(name string) string { return env[name] }, nil
}
