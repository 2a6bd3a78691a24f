// Package fusefs is the read-only FUSE server of sealed volumes. Mount mounts a
// Tree at a directory and serves it; Serve serves one on a connection that somebody
// else has mounted.
//
// The kernel asks over the connection (conn), where one worker at a time takes the
// next request (leadership) and the Tree answers it (treeFS). What will probably be
// asked for next is put into the kernel's cache before (prefetcher). Plaintext and
// keys are in this process's memory only.
package fusefs
