package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mounted is a file system with its server, or a plain directory without one.
type mounted struct {
	dir    string
	server *exec.Cmd
	note   func(peakMB float64) // hears of the server's memory; may be nil
	below  *mounted             // what it lies on, if that was mounted for it
}

// start runs a server and waits until its mount is there.
func (b *bench) start(ctx context.Context, argv func(dir string) []string) (*mounted, error) {
	dir, err := os.MkdirTemp(b.root, "mount-")
	if err != nil {
		return nil, err
	}
	words := argv(dir)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = new(strings.Builder)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	m := &mounted{dir: dir, server: cmd}
	for begin := time.Now(); !isMount(dir); time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Minute || ctx.Err() != nil {
			_ = cmd.Process.Kill()
			return nil, fmt.Errorf("%s does not mount: %w\n%s", words[0], cmd.Wait(), cmd.Stderr)
		}
	}
	return m, nil
}

// isMount reports whether something is mounted at dir.
func isMount(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}

// close unmounts, and waits for the server.
func (m *mounted) close() error {
	if m.server == nil {
		return nil
	}
	if m.note != nil {
		m.note(peakMemory(m.server.Process.Pid))
	}
	err := unix.Unmount(m.dir, 0)
	for try := 0; errors.Is(err, unix.EBUSY) && try < 100; try++ {
		time.Sleep(10 * time.Millisecond)
		err = unix.Unmount(m.dir, 0)
	}
	if err != nil {
		_ = unix.Unmount(m.dir, unix.MNT_DETACH)
		_ = m.server.Process.Kill()
	}
	if waitErr := m.server.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("%w\n%s", waitErr, m.server.Stderr)
	}
	err = errors.Join(err, os.Remove(m.dir))
	if m.below != nil {
		err = errors.Join(err, m.below.close())
	}
	return err
}

// mountSealed mounts a volume as a user does.
func (b *bench) mountSealed(ctx context.Context, file string) (*mounted, error) {
	return b.start(ctx, func(dir string) []string {
		return []string{b.sealbatch(), "mount", file, dir, "-i", b.identity}
	})
}

func (b *bench) mountGocryptfs(ctx context.Context, cipher string, readOnly bool) (*mounted, error) {
	return b.start(ctx, func(dir string) []string {
		argv := []string{"gocryptfs", "-q", "-fg", "-passfile", b.data.password}
		if readOnly {
			argv = append(argv, "-ro")
		}
		return append(argv, cipher, dir)
	})
}

// dropCaches lets the kernel forget names and attributes. Pages need not be
// dropped: those of a tmpfs are its storage, and a new mount has none.
func dropCaches() error {
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)
}

// peakMemory returns the most resident memory that a process had, in MB; 0 if unknown.
func peakMemory(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib * 1024 / 1e6
		}
	}
	return 0
}
