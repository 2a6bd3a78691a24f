package sandbox

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/volume"
)

// dirIVName is the file that makes a directory a gocryptfs one; it holds the
// initialization vector of the names, dirIVLen bytes (gocryptfs:
// internal/nametransform/diriv.go).
const (
	dirIVName = "gocryptfs.diriv"
	dirIVLen  = 16
)

// MountGocryptfs mounts cipherDir read-write at rel with the stock gocryptfs
// program. An empty cipherDir becomes a cipher directory first; one that belongs
// to another group than the caller's is refused with ErrUnmappedGroup.
func (s *Space) MountGocryptfs(rel, cipherDir string, key volume.Key) error {
	cipherDir, err := filepath.Abs(cipherDir)
	if err != nil {
		return err
	}
	if key.IsZero() {
		return fmt.Errorf("mount %s: no key", cipherDir)
	}
	if err := prepareCipherDir(cipherDir); err != nil {
		return err
	}
	return s.mount(rel, request{Type: "gocryptfs"}, func(fuse *os.File) (server, error) {
		defer fuse.Close()
		return s.startGocryptfs(fuse, cipherDir, key)
	})
}

// prepareCipherDir checks the owner of dir and makes it a cipher directory if
// nothing is in it yet.
func prepareCipherDir(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("stat cipher directory %s: %w", dir, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a directory", dir)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("the cipher directory %s belongs to uid %d, not to one's own", dir, st.Uid)
	case int(st.Gid) != os.Getegid():
		return fmt.Errorf("%w: %s belongs to group %d; give it to one's own (chgrp %d, chmod g-s), or start under that group",
			ErrUnmappedGroup, dir, st.Gid, os.Getegid())
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read cipher directory: %w", err)
	}
	if len(names) == 0 {
		return writeDirIV(dir)
	}
	if fi, err := os.Lstat(filepath.Join(dir, dirIVName)); err != nil || fi.Size() != dirIVLen || !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is neither empty nor a gocryptfs cipher directory", dir)
	}
	return nil
}

func writeDirIV(dir string) error {
	iv := make([]byte, dirIVLen)
	rand.Read(iv) // never fails
	f, err := os.OpenFile(filepath.Join(dir, dirIVName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o440)
	if err != nil {
		return fmt.Errorf("make a cipher directory: %w", err)
	}
	_, err = f.Write(iv)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("make a cipher directory: %w", err)
	}
	return nil
}

// gocryptfs is a running gocryptfs process.
type gocryptfs struct {
	cmd      *exec.Cmd
	warnings *head
	done     chan struct{}
	exit     error // set before done is closed
}

func (g *gocryptfs) ended() <-chan struct{} { return g.done }
func (g *gocryptfs) err() error             { return g.exit }

// settled forgets what gocryptfs said, and lets it say no more: from here on its
// warnings may hold names of files, which belong in no log.
func (g *gocryptfs) settled() { g.warnings.close() }

func (g *gocryptfs) kill() { g.cmd.Process.Kill() }

// startGocryptfs runs gocryptfs on the connection fuse. The key goes through a
// pipe, and gocryptfs.conf is not read.
func (s *Space) startGocryptfs(fuse *os.File, cipherDir string, key volume.Key) (*gocryptfs, error) {
	if s.opt.Gocryptfs == "" {
		return nil, errors.New("no gocryptfs program is configured")
	}
	keyPipe, err := keyOnPipe(key)
	if err != nil {
		return nil, fmt.Errorf("pass the key to gocryptfs: %w", err)
	}
	defer keyPipe.Close()
	g := &gocryptfs{warnings: &head{limit: 2 << 10}, done: make(chan struct{})}
	args := []string{"-fg", "-q", "-nosyslog", "-masterkey=stdin"}
	if s.opt.Mode == Runtime {
		args = append(args, "-sharedstorage") // there is one for the caller, one for the container
	}
	g.cmd = exec.Command(s.opt.Gocryptfs, append(args, cipherDir, "/dev/fd/3")...)
	g.cmd.Dir, g.cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
	g.cmd.Stdin, g.cmd.Stderr = keyPipe, g.warnings
	g.cmd.ExtraFiles = []*os.File{fuse}
	// A session of its own: a terminal's Ctrl-C must not end it before the job.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setsid: true}
	if err := s.thread.do(g.cmd.Start); err != nil {
		return nil, fmt.Errorf("start gocryptfs: %w", err)
	}
	go func() {
		g.exit = g.cmd.Wait()
		if text := g.warnings.String(); g.exit != nil && text != "" {
			g.exit = fmt.Errorf("%w: %s", g.exit, text)
		}
		close(g.done)
	}()
	return g, nil
}

// keyOnPipe returns a pipe that holds key as a line. It fits into the pipe's
// buffer, so that nobody has to wait for the reader.
func keyOnPipe(key volume.Key) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	line := append([]byte(key.Hex()), '\n')
	defer clear(line)
	_, err = w.Write(line)
	if err := errors.Join(err, w.Close()); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// head keeps the first bytes that are written to it and drops the rest.
type head struct {
	mu    sync.Mutex
	limit int
	buf   bytes.Buffer
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Write(p[:min(len(p), h.limit-h.buf.Len())])
	return len(p), nil
}

// close forgets what was written, and drops what will be.
func (h *head) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limit = 0
	h.buf.Reset()
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.TrimSpace(h.buf.String())
}
