// Package nodelocal knows the directory that a job has on a node's own disk:
// where it may lie, the lock that says whether its supervisor lives, and how
// what a killed supervisor left is removed.
package nodelocal
