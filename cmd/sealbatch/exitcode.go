package main

import (
	"errors"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/volume"
)

// exitCodes are the documented exit codes (docs/cli.md). A job's supervisor has
// others (noderun.ExitMeanings), and job-prep -f ends with its job's.
var exitCodes = map[fault.Class]int{
	fault.None: 0, fault.Other: 1, fault.Usage: 2, fault.Config: 3, fault.SSH: 4, fault.Attestation: 5,
	fault.Key: 6, fault.Integrity: 7, fault.Slurm: 8, fault.Job: 9,
	fault.Incomplete: 10, fault.Empty: 11, fault.Interrupted: 130,
}

// exitCode returns the documented exit code of an error.
func exitCode(err error) int { return exitCodes[classOf(err)] }

// classOf returns an error's class. Those of volume, which knows no classes, are
// told by its sentinels.
func classOf(err error) fault.Class {
	if c := fault.ClassOf(err); c != fault.Other {
		return c
	}
	for _, m := range []struct {
		err   error
		class fault.Class
	}{
		{volume.ErrIntegrity, fault.Integrity},
		{volume.ErrNoIdentity, fault.Key},
		{volume.ErrLimit, fault.Usage},
		{volume.ErrRoom, fault.Usage},
		{volume.ErrRecipients, fault.Usage},
	} {
		if errors.Is(err, m.err) {
			return m.class
		}
	}
	return fault.Other
}
