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
)

// What the child does differently where it has no namespaces of its own (modes
// Fusermount and Runtime). Instead of a pid namespace, it is the subreaper:
// whatever its commands leave behind, daemons in sessions of their own included,
// becomes its child.

func becomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	return nil
}

// takeRights takes the right to write from everything in the private directory
// that is not a mount. (What lies beneath mounts has lost it already.) The
// container gets the tree bound read-only besides, so that it cannot take it back.
func (c *child) takeRights() error {
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

// descendants returns the processes below pid, as far as /proc shows them.
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

// parentOf returns the parent from /proc/PID/stat: the second field after the
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
