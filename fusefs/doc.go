// Package fusefs mounts volumes: sealed ones read-only with a FUSE server of
// its own, gocryptfs cipher directories read-write with the stock gocryptfs
// program. It also makes the private place in which a job's volumes are mounted
// and its commands run, a Space.
//
// A Space is a child process in its own user, mount, pid and IPC namespaces. The
// child opens and mounts /dev/fuse and hands the descriptor back; whoever holds
// keys (the calling process for sealed volumes, gocryptfs for the others) stays
// outside. It needs no privilege beyond unprivileged user namespaces.
package fusefs
