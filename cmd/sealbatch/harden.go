package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/fusefs"
)

// harden keeps what lies in this process's memory, keys above all, out of core
// files and from other processes of the same user: no core files, for programs
// started from here neither, and no tracing.
func harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	return fusefs.Undumpable()
}
