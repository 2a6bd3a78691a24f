package sandbox

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/volume"
)

// dirIVName is the file that makes a directory a gocryptfs one; it holds the
// initialization vector of the names, dirIVLen bytes (gocryptfs:
// internal/nametransform/diriv.go).
const (
	dirIVName = "gocryptfs.diriv"
	dirIVLen  = 16
)

// MountGocryptfs mounts a cipher directory read-write at rel with the stock
// gocryptfs program, which is handed the directory, not its path. An empty one
// becomes a cipher directory first; one that belongs to another group than the
// caller's is refused with ErrUnmappedGroup.
func (s *Space) MountGocryptfs(rel string, cipher *os.Root, key volume.Key) error {
	if key.IsZero() {
		return fmt.Errorf("mount %s: no key", cipher.Name())
	}
	if err := prepareCipherDir(cipher); err != nil {
		return err
	}
	return s.mount(rel, request{Type: "gocryptfs"}, func(fuse *os.File) (server, error) {
		defer fuse.Close()
		return s.startGocryptfs(fuse, cipher, key)
	})
}

// prepareCipherDir checks the owner of dir and makes it a cipher directory if
// nothing is in it yet.
func prepareCipherDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return fmt.Errorf("open the cipher directory: %w", err)
	}
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return fmt.Errorf("stat the cipher directory %s: %w", dir.Name(), err)
	}
	switch {
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("the cipher directory %s belongs to uid %d, not to one's own", dir.Name(), st.Uid)
	case int(st.Gid) != os.Getegid():
		return fmt.Errorf("%w: %s belongs to group %d; give it to one's own (chgrp %d, chmod g-s), or start under that group",
			ErrUnmappedGroup, dir.Name(), st.Gid, os.Getegid())
	}
	switch names, err := d.Readdirnames(1); {
	case errors.Is(err, io.EOF):
		return writeDirIV(dir)
	case err != nil || len(names) == 0:
		return fmt.Errorf("read the cipher directory: %w", err)
	}
	if fi, err := dir.Lstat(dirIVName); err != nil || fi.Size() != dirIVLen || !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is neither empty nor a gocryptfs cipher directory", dir.Name())
	}
	return nil
}

func writeDirIV(dir *os.Root) error {
	iv := make([]byte, dirIVLen)
	rand.Read(iv) // never fails
	f, err := dir.OpenFile(dirIVName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o440)
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

// startGocryptfs runs gocryptfs on the connection fuse and a cipher directory,
// its descriptors 3 and 4. The key goes through a pipe, and gocryptfs.conf is not
// read.
func (s *Space) startGocryptfs(fuse *os.File, cipher *os.Root, key volume.Key) (*gocryptfs, error) {
	if s.opt.Gocryptfs == "" {
		return nil, errors.New("no gocryptfs program is configured")
	}
	dir, name, err := openCipherDir(cipher)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	keyPipe, err := keyOnPipe(key)
	if err != nil {
		return nil, fmt.Errorf("pass the key to gocryptfs: %w", err)
	}
	defer keyPipe.Close()
	g := &gocryptfs{warnings: &head{limit: 2 << 10}, done: make(chan struct{})}
	args := []string{"-fg", "-q", "-nosyslog", "-masterkey=stdin", "-fsname", name}
	if s.opt.Mode == Runtime {
		args = append(args, "-sharedstorage") // there is one for the caller, one for the container
	}
	g.cmd = exec.Command(s.opt.Gocryptfs, append(args, "/proc/self/fd/4", "/dev/fd/3")...)
	g.cmd.Dir, g.cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
	g.cmd.Stdin, g.cmd.Stderr = keyPipe, g.warnings
	g.cmd.ExtraFiles = []*os.File{fuse, dir}
	// A session of its own: a terminal's Ctrl-C must not end it before the job.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setsid: true}
	if err := s.thread.do(g.cmd.Start); err != nil {
		return nil, fmt.Errorf("start gocryptfs: %w", err)
	}
	go g.wait()
	return g, nil
}

// openCipherDir opens a cipher directory, and returns its present name, for ps(1) to
// tell one gocryptfs from another.
func openCipherDir(cipher *os.Root) (dir *os.File, name string, err error) {
	if dir, err = cipher.Open("."); err != nil {
		return nil, "", fmt.Errorf("open the cipher directory: %w", err)
	}
	if name, err = os.Readlink(fsx.FDPath(dir)); err != nil {
		dir.Close()
		return nil, "", fmt.Errorf("name of the cipher directory: %w", err)
	}
	return dir, name, nil
}

// wait notes how the process ended.
func (g *gocryptfs) wait() {
	g.exit = g.cmd.Wait()
	if text := g.warnings.String(); g.exit != nil && text != "" {
		g.exit = fmt.Errorf("%w: %s", g.exit, text)
	}
	close(g.done)
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
