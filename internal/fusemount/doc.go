// Package fusemount mounts and unmounts FUSE: directly, where the caller may, or by
// fusermount3 (Helper). What it returns is the connection's descriptor, for somebody
// to serve. It also reports what is mounted where.
package fusemount
