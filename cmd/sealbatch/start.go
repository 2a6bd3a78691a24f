package main

import "syscall"

// stdoutAtStart is what fcntl(1, F_GETFD) returned before Go's runtime ran.
var stdoutAtStart int

// stdoutClosed reports whether the program was started without standard output (>&-). Afterwards nobody can tell: the
// runtime opens /dev/null in its place (runtime/fds_unix.go). So the program begins at start, in start_*.s, which
// leaves the registers that the runtime needs alone; the Makefile says so to the linker (-E). A program that was
// linked without it does not know, and reports false.
func stdoutClosed() bool { return stdoutAtStart == -int(syscall.EBADF) }
