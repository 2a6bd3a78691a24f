// Package sandbox makes the private place in which a job's volumes are mounted
// and its commands run, a Space. Sealed volumes are mounted read-only and served
// by the calling process (package fusefs), gocryptfs cipher directories
// read-write and served by the stock gocryptfs program.
//
// In mode Namespace, a Space is a child process in its own user, mount, pid and IPC
// namespaces. The child opens and mounts /dev/fuse and hands the descriptor back;
// whoever holds keys (the calling process for sealed volumes, gocryptfs for the
// others) stays outside. It needs no privilege beyond unprivileged user namespaces.
// Where there are none, fusermount3 mounts (mode Fusermount), or the container
// runtime does (mode Runtime), and the child does the rest.
//
// The Space (client) and its child talk over a socket (wire): a request has one
// reply, and a command that was started has a second message when it ends.
package sandbox
