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
	class, _ := ofVolume(err)
	return class
}

// ofVolume returns the class of an error of package volume, and what to do about it.
func ofVolume(err error) (fault.Class, string) {
	const anew = "copy it again from where it is whole, or seal the data anew"
	for _, m := range []struct {
		err   error
		class fault.Class
		hint  string
	}{
		{volume.ErrChecksum, fault.Integrity, anew + "; sealbatch rewrap changes the checksum, too"},
		{volume.ErrDigest, fault.Integrity, "compare with its info file: another version may have been published since"},
		{volume.ErrIntegrity, fault.Integrity, anew},
		{volume.ErrNoIdentity, fault.Key, "name with -i a key of those for whom it was sealed"},
		{volume.ErrVersion, fault.Other, "a newer sealbatch may read it"},
		{volume.ErrLimit, fault.Usage, ""},
		{volume.ErrRoom, fault.Usage, ""},
		{volume.ErrRecipients, fault.Usage, ""},
	} {
		if errors.Is(err, m.err) {
			return m.class, m.hint
		}
	}
	return fault.Other, ""
}
