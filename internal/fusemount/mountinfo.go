package fusemount

import (
	"bufio"
	"os"
	"slices"
	"strings"
)

// IsMountPoint reports whether something is mounted at path, without touching
// it: its server may be dead, or hang.
func IsMountPoint(path string) bool { return slices.Contains(Below(path), path) }

// Below returns the mount points at path and below, the innermost first.
func Below(path string) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var found []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // proc_pid_mountinfo(5): the fifth is the mount point
		if len(fields) < 5 {
			continue
		}
		if at := unescapeMount(fields[4]); at == path || strings.HasPrefix(at, path+"/") {
			found = append(found, at)
		}
	}
	slices.Reverse(found) // later mounts lie in or on earlier ones
	return found
}

// unescapeMount undoes the kernel's octal escapes of space, tab, newline and
// backslash.
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
