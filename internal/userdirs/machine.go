package userdirs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

const (
	tmp = "/tmp" // where HPCS mounts the work directory, and below it ~/.ssh
	// overflow is who owns files of users that a container's user namespace does not have
	// (/proc/sys/kernel/overflowuid): anybody may be behind it.
	overflow = 65534
	// maxMounts bounds /proc/self/mountinfo, in bytes.
	maxMounts = 16 << 20
)

// machine is where this process runs, as whom.
type machine struct {
	root   string // of the file system; "" is "/"
	uid    int
	getenv func(string) string
}

func here() machine { return machine{uid: os.Geteuid(), getenv: os.Getenv} }

// at returns where a path of the machine lies.
func (m machine) at(path string) string { return m.root + path }

// Container reports whether this process runs in a container of Docker's or Podman's.
func Container() bool { return here().container() }

func (m machine) container() bool {
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		fi, err := os.Lstat(m.at(mark))
		if err == nil && fi.Mode().IsRegular() && ownerOf(fi) == 0 {
			return true
		}
	}
	return false
}

// Owner returns whose files count as one's own beside those of this process's
// user: for root in a container the owner of the directory that is mounted at
// /tmp, unless everybody may write it. HPCS's containers without `user:` run so.
func Owner() (uid uint32, ok bool) { return here().owner() }

func (m machine) owner() (uid uint32, ok bool) {
	if m.uid != 0 || !m.container() {
		return 0, false
	}
	fi, err := os.Lstat(m.at(tmp))
	if err != nil || !fi.IsDir() || fi.Mode().Perm()&0o002 != 0 || m.mountOf(tmp).point != tmp {
		return 0, false
	}
	uid = ownerOf(fi)
	return uid, uid != 0 && uid != overflow
}

// Give gives what root made in a container to the person who mounted the place
// where it lies (Owner), so that it can be used and removed outside as well.
// Elsewhere it does nothing.
func Give(paths ...string) error {
	uid, ok := Owner()
	if !ok {
		return nil
	}
	for _, path := range paths {
		if err := os.Lchown(path, int(uid), -1); err != nil {
			return err
		}
	}
	return nil
}

// OwnerHint says what to do about a file that exists and cannot be read, as far as its owner tells.
func OwnerHint(path string) string {
	owner, what := "its owner", path
	for ; what != "/" && what != "."; what = filepath.Dir(what) {
		if fi, err := os.Stat(what); err == nil {
			owner = fmt.Sprintf("uid %d, whose %s is", ownerOf(fi), what)
			break
		}
	}
	if Container() {
		return "run the container as " + owner + ": `user:` in the compose file, docker run --user"
	}
	return "run it as " + owner
}

// mine reports whether a file is root's or one's own.
func (m machine) mine(fi os.FileInfo) bool {
	uid := ownerOf(fi)
	owner, ok := m.owner()
	return uid == 0 || int(uid) == m.uid || ok && uid == owner
}

func ownerOf(fi os.FileInfo) uint32 {
	st, _ := fi.Sys().(*syscall.Stat_t) // always, on Linux
	return st.Uid
}

// mount is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct{ point, root, kind string }

// mountOf returns the mount that a clean, absolute path lies on; the newest of
// those at one place.
func (m machine) mountOf(path string) (on mount) {
	f, err := os.Open(m.at("/proc/self/mountinfo"))
	if err != nil {
		return mount{}
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxMounts))
	for lines.Scan() {
		one, ok := parseMount(lines.Text())
		if ok && below(path, one.point) && len(one.point) >= len(on.point) {
			on = one
		}
	}
	return on
}

// parseMount takes a line apart: "36 35 98:0 /root /point options ... - kind source options".
func parseMount(line string) (m mount, ok bool) {
	before, after, ok := strings.Cut(line, " - ")
	fields, kinds := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 6 || len(kinds) == 0 {
		return mount{}, false
	}
	return mount{point: plain(fields[4]), root: plain(fields[3]), kind: kinds[0]}, true
}

var escapes = regexp.MustCompile(`\\[0-3][0-7]{2}`)

// plain undoes the octal escapes of blanks and backslashes.
func plain(s string) string {
	return escapes.ReplaceAllStringFunc(s, func(e string) string {
		n, _ := strconv.ParseUint(e[1:], 8, 8) // the pattern lets nothing else through
		return string([]byte{byte(n)})
	})
}

// below reports whether a path is dir or lies below it.
func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(filepath.Clean(dir), "/")+"/")
}
