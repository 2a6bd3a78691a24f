// Package harden keeps what lies in this process's memory, keys above all, out
// of core files and from other processes of the same user.
package harden

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Process forbids core files and tracing, for good.
func Process() error {
	if err := NoCoreDumps(); err != nil {
		return err
	}
	return Undumpable()
}

// NoCoreDumps forbids core files of this process and of all that it starts.
func NoCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}

// Undumpable keeps other processes of the same user from tracing this one, and
// so from reading keys in its memory. Children in user namespaces have to be
// started before: the kernel refuses the user mapping of an undumpable process's
// child. Programs that it executes become dumpable again.
func Undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process undumpable: %w", err)
	}
	return nil
}

// IsUndumpable reports whether Undumpable was called in this process.
func IsUndumpable() bool {
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	return err == nil && dumpable == 0
}
