package fusemount

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is a line of /proc/self/mountinfo.
type mount struct {
	point  string // path
	device string // major:minor
	kind   string // type of file system
}

// mounts returns what is mounted: later mounts lie in or on earlier ones.
func mounts() (found []mount) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// proc_pid_mountinfo(5): device and mount point are third and fifth; the type is the first after a dash.
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if len(fields) >= 5 && len(kind) > 0 {
			found = append(found, mount{unescapeMount(fields[4]), fields[2], kind[0]})
		}
	}
	return found
}

// IsMountPoint reports whether something is mounted at path, without touching
// it: its server may be dead, or hang.
func IsMountPoint(path string) bool { return TypeAt(path) != "" }

// TypeAt returns the type of the file system that is mounted at path, such as fuse.sealbatch, without touching it; ""
// if none is.
func TypeAt(path string) (kind string) {
	for _, m := range mounts() {
		if m.point == path {
			kind = m.kind
		}
	}
	return kind
}

// Where returns the path at which the file system of a device (stat's st_dev) is mounted now, as a directory above it
// may have been renamed. covered says that something else was mounted over it.
func Where(device uint64) (path string, covered bool) {
	dev := fmt.Sprintf("%d:%d", unix.Major(device), unix.Minor(device))
	for _, m := range mounts() {
		switch {
		case m.device == dev:
			path, covered = m.point, false
		case m.point == path:
			covered = true
		}
	}
	return path, covered
}

// Below returns the mount points at path and below, the innermost first.
func Below(path string) (found []string) {
	for _, m := range mounts() {
		if m.point == path || strings.HasPrefix(m.point, path+"/") {
			found = append(found, m.point)
		}
	}
	slices.Reverse(found)
	return found
}

// unescapeMount undoes the kernel's octal escapes of space, tab, newline and
// backslash.
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
