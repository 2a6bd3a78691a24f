package slurm

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// login is a login node on which bash is at a path.
type login string

func (l login) Run(ctx context.Context, argv []string, _ io.Reader) (stdout, stderr []byte, exit int, err error) {
	err = exec.CommandContext(ctx, argv[0], argv[1], strings.ReplaceAll(argv[2], bash, string(l))).Run()
	if ended := new(exec.ExitError); errors.As(err, &ended) {
		return nil, nil, ended.ExitCode(), nil
	}
	return nil, nil, 0, err
}

func TestCheckBash(t *testing.T) {
	t.Parallel()
	if err := CheckBash(t.Context(), login(bash)); err != nil {
		t.Error(err)
	}
	err := CheckBash(t.Context(), login("/nowhere/bash"))
	if fault.ClassOf(err) != fault.Slurm || fault.Hint(err) == "" {
		t.Errorf("without bash: %v", err)
	}
}
