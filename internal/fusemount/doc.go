// Package fusemount mounts FUSE: directly, where the caller may, or by
// fusermount3. It returns the connection's descriptor, which somebody else
// serves, and finds out what is mounted where.
package fusemount
