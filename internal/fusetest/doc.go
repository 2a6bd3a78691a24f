// Package fusetest holds what the tests of FUSE mounts share: trees to mount, and
// a second run of all tests by a user without privileges.
package fusetest
