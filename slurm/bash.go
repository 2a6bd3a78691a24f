package slurm

import (
	"context"
	"errors"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// bash runs job scripts.
const bash = "/bin/bash"

// CheckBash fails if the login node does not have what runs job scripts: no node of such a site is likely to.
func CheckBash(ctx context.Context, login Runner) error {
	const none = 3
	_, _, exit, err := login.Run(ctx, []string{"sh", "-c", "[ -x " + bash + " ] || exit 3"}, nil)
	if err == nil && exit == none {
		err = fault.New(fault.Slurm, errors.New("there is no "+bash+" on the login node, and every job's script is run by it"),
			"ask the site's support to install bash there and on the compute nodes")
	}
	return err
}
