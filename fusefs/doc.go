// Package fusefs mounts sealed volumes read-only, with a FUSE server of its own.
package fusefs
