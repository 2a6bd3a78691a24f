package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
	"github.com/sealbatch/sealbatch/internal/harden"
)

// What the child does differently where it has no namespaces of its own (modes
// Fusermount and Runtime). Instead of a pid namespace, it is the subreaper:
// whatever its commands leave behind, daemons in sessions of their own included,
// becomes its child.

// initPlain readies the child.
func (c *child) initPlain() error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := harden.NoCoreDumps(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	return nil
}

// freezePlain takes the right to write from everything in the private directory
// that is not a mount. (What lies beneath mounts has lost it already.) The
// container gets the tree bound read-only besides, so that it cannot take it back.
func (c *child) freezePlain() error {
	mounts := fusemount.Below(c.dir)
	var dirs []string
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case slices.Contains(mounts, path):
			return filepath.SkipDir
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
		case d.Type().IsRegular(): // scripts: readable and executable
			return os.Chmod(path, 0o500)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, os.Chmod(dir, 0o500))
	}
	return err
}

// killDescendants kills until there is no child left. A process whose parent
// died becomes this one's child, so that there is no other descendant then.
func (c *child) killDescendants(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		if c.reap() {
			return nil
		}
		for _, pid := range descendants(os.Getpid()) {
			_ = unix.Kill(pid, unix.SIGKILL) // a set-uid program's root part ends with its user's
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes still run %v after they were killed", limit)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// descendants lists the processes below pid, as far as /proc shows them.
func descendants(pid int) []int {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	for _, n := range names {
		id, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		if parent, ok := parentOf(id); ok {
			children[parent] = append(children[parent], id)
		}
	}
	var all []int
	for next := children[pid]; len(next) > 0; {
		all = append(all, next...)
		var below []int
		for _, p := range next {
			below = append(below, children[p]...)
		}
		next = below
	}
	return all
}

// parentOf reads the parent from /proc/PID/stat: the second field after the
// name, which is in parentheses and may hold anything (proc_pid_stat(5)).
func parentOf(pid int) (int, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}

// cleanUp is what the child does when the caller has closed the Space, or died
// without: nothing that ran in it, and no mount, outlives it.
func (c *child) cleanUp() error {
	err := c.killDescendants(patience)
	c.mu.Lock() // fusermount3 is not for the reaper
	defer c.mu.Unlock()
	return errors.Join(err, clearDir(c.helper, c.dir))
}

// clearDir lazily unmounts everything below dir and empties it.
func clearDir(helper fusemount.Helper, dir string) error {
	var errs []error
	for _, at := range fusemount.Below(dir) {
		errs = append(errs, helper.Unmount(at, true))
	}
	return errors.Join(append(errs, emptyDir(dir))...)
}

// emptyDir removes what is in a private directory unless something is mounted
// there: it must never reach the files behind a mount.
func emptyDir(dir string) error {
	if at := fusemount.Below(dir); len(at) > 0 {
		return fmt.Errorf("%s is still mounted", at[0])
	}
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return err
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Dev != top.Dev {
			return fmt.Errorf("%s is on another file system", path)
		}
		return os.Chmod(path, 0o700)
	})
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// Clear unmounts and removes what the Space of a dead process left below dir, an
// absolute name without symbolic links; the caller has to know that it is dead.
// dir itself stays.
func Clear(dir string) error {
	helper, err := fusemount.FindHelper()
	if err != nil && len(fusemount.Below(dir)) > 0 {
		return err
	}
	return clearDir(helper, dir)
}

// Mounts lists what is mounted at dir and below, without touching it.
func Mounts(dir string) []string { return fusemount.Below(dir) }
