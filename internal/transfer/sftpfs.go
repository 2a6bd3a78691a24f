package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"sort"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// SFTP parameters. OpenSSH takes writes of up to 255 KiB (limits@openssh.com: SFTP_MAX_MSG_LENGTH less
// 1 KiB); on loopback they are 1.7 times as fast as 128 KiB and three times as 32 KiB. The window of an
// SSH channel holds 2 MiB, so that more requests in flight than these gain nothing.
const (
	sftpPacket   = 255 << 10
	sftpRequests = 64
)

// remote is the login node's file system.
type remote struct {
	c *sftp.Client
	w *watched
	g *guard
	// on is the connection, which can have more of them, and s the session.
	on *Client
	s  *ssh.Session
}

// newRemote speaks SFTP with a server; hangUp ends the connection.
func newRemote(w *watched, hangUp func() error) (*remote, error) {
	g := newGuard(w, w, func(why error) {
		w.broken.Store(&why)
		_ = hangUp()
	})
	c, err := sftp.NewClientPipe(g, g, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true), sftp.UseFstat(true),
		sftp.MaxPacketUnchecked(sftpPacket), sftp.MaxConcurrentRequestsPerFile(sftpRequests))
	if err != nil {
		_ = w.Close()
		if w.stalled.Load() {
			err = w.lost(err)
		}
		return nil, err
	}
	return &remote{c: c, w: w, g: g}, nil
}

func (r remote) Stat(path string) (fs.FileInfo, error) {
	return lost2[fs.FileInfo](r.w)(r.c.Stat(path))
}
func (r remote) Lstat(path string) (fs.FileInfo, error) {
	defer r.w.asked(time.Now())
	return lost2[fs.FileInfo](r.w)(r.c.Lstat(path))
}
func (r remote) Remove(path string) error { return r.w.lost(r.c.Remove(path)) }
func (r remote) Readlink(path string) (string, error) {
	r.g.listing()
	return lost2[string](r.w)(r.c.ReadLink(path))
}
func (r remote) RealPath(path string) (string, error) {
	r.g.listing()
	return lost2[string](r.w)(r.c.RealPath(path))
}

func (r remote) Open(path string) (File, error) {
	info, err := r.Stat(path) // the server would wait for a named pipe's other end, and answer nothing meanwhile
	if err != nil {
		return nil, err
	}
	if err := checkRegular(path, info); err != nil {
		return nil, err
	}
	f, err := r.c.Open(path)
	if err != nil {
		return nil, r.w.lost(err)
	}
	return remoteFile{f, r}, nil
}

func (r remote) Reopen(path string) (WriteFile, error) {
	f, err := r.c.OpenFile(path, os.O_RDWR)
	if err != nil {
		return nil, r.w.lost(err)
	}
	return remoteFile{f, r}, nil
}

func (r remote) Free(path string) (int64, error) {
	if _, ok := r.c.HasExtension("statvfs@openssh.com"); !ok {
		return -1, nil
	}
	st, err := r.c.StatVFS(path)
	if err != nil {
		return 0, r.w.lost(fmt.Errorf("%s: %w", At(path), err))
	}
	if st == nil { // success, and no answer
		return -1, nil
	}
	free := st.Frsize * st.Bavail
	if st.Bavail > 0 && (free/st.Bavail != st.Frsize || free > math.MaxInt64) {
		return -1, nil
	}
	return int64(free), nil
}

// lost returns the end of the connection as ErrConnect, and what the server answers as it is.
func lost(err error) error {
	var network net.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sftp.ErrSSHFxConnectionLost), errors.Is(err, sftp.ErrSSHFxNoConnection), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.ErrClosedPipe), errors.Is(err, io.EOF), errors.As(err, &network):
		return fail(Error{Kind: ErrConnect, What: "the connection to the login node broke", Err: err,
			Next: "run the same command again when the login node can be reached"})
	}
	return err
}

func (r remote) Create(path string, perm fs.FileMode) (WriteFile, error) {
	f, err := r.c.OpenFile(withMode(path, perm), openExclusive)
	if err != nil {
		return nil, r.exists(path, r.w.lost(err))
	}
	info, err := f.Stat()
	if err = r.w.lost(err); err == nil {
		err = notWider(path, info.Mode(), perm)
	}
	if err != nil {
		_ = f.Close() // it stays, empty: by its name, another could be removed
		return nil, err
	}
	return remoteFile{f, r}, nil
}

// notWider fails if a server has made something with more permissions than it was told: others may
// have it open already, and what is written later is theirs to read.
func notWider(path string, made, want fs.FileMode) error {
	if made.Perm()&^want.Perm() == 0 {
		return nil
	}
	return fail(Error{Kind: ErrMode, What: fmt.Sprintf("%s was made with mode %04o instead of %04o: "+
		"the login node's SFTP server does not heed the mode that it is told", At(path), made.Perm(), want.Perm()),
		Next: "ask the site for an SFTP server that does, such as OpenSSH's without -m"})
}

// exists returns fs.ErrExist if something has the path: SFTP 3 has one code for that and other failures.
func (r remote) exists(path string, err error) error {
	if _, statErr := r.c.Lstat(path); statErr == nil && !errors.Is(err, ErrConnect) {
		return &fs.PathError{Op: "create", Path: At(path), Err: fs.ErrExist}
	}
	return fmt.Errorf("%s: %w", At(path), err)
}

func (r remote) Mkdir(path string, perm fs.FileMode) error {
	if err := r.c.Mkdir(withMode(path, perm)); err != nil {
		return r.exists(path, r.w.lost(err))
	}
	info, err := r.Lstat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", At(path), err)
	}
	return notWider(path, info.Mode(), perm)
}

// Rename is SSH_FXP_RENAME, which replaces nothing (section 6.5 of the draft); posix-rename@openssh.com does. Some
// servers take the one for the other, so what has the name is looked for first.
func (r remote) Rename(from, to string) error {
	if _, err := r.Lstat(to); err == nil {
		return &fs.PathError{Op: "rename", Path: At(to), Err: fs.ErrExist}
	} else if errors.Is(err, ErrConnect) {
		return err
	}
	err := r.w.lost(r.c.Rename(from, to))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.exists(to, err)
}

// Run runs a command at the site; see Client.Run.
func (r remote) Run(ctx context.Context, argv []string, stdin io.Reader) (stdout, stderr []byte, exit int, err error) {
	return r.on.Run(ctx, argv, stdin)
}

func (r remote) ReadDir(path string) ([]fs.FileInfo, error) {
	r.g.listing()
	entries, err := r.c.ReadDir(path)
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	return entries, r.w.lost(err)
}

// remoteFile is an open file. It syncs only where the server can.
type remoteFile struct {
	*sftp.File
	on remote
}

func (f remoteFile) Read(p []byte) (int, error)              { return f.lostIO(f.File.Read(p)) }
func (f remoteFile) ReadAt(p []byte, off int64) (int, error) { return f.lostIO(f.File.ReadAt(p, off)) }
func (f remoteFile) Write(p []byte) (int, error)             { return lost2[int](f.on.w)(f.File.Write(p)) }
func (f remoteFile) WriteAt(p []byte, off int64) (int, error) {
	return lost2[int](f.on.w)(f.File.WriteAt(p, off))
}
func (f remoteFile) Stat() (fs.FileInfo, error)   { return lost2[fs.FileInfo](f.on.w)(f.File.Stat()) }
func (f remoteFile) Chmod(perm fs.FileMode) error { return f.on.w.lost(f.File.Chmod(perm.Perm())) }
func (f remoteFile) Close() error                 { return f.on.w.lost(f.File.Close()) }

// WriteTo keeps many reads in flight.
func (f remoteFile) WriteTo(w io.Writer) (int64, error) {
	return lost2[int64](f.on.w)(f.File.WriteTo(w))
}

// ReadFrom keeps many writes in flight. Errors of r are returned as they are. (The library's own
// ReadFrom writes one packet after the other when it does not know r's size, and takes the io.EOF of
// a lost connection for the end of r.)
func (f remoteFile) ReadFrom(r io.Reader) (int64, error) {
	own := &ownError{r: r}
	n, err := f.File.ReadFromWithConcurrency(own, sftpRequests)
	if own.err != nil && errors.Is(err, own.err) {
		return n, err
	}
	return n, f.on.w.lost(err)
}

// ownError remembers the error with which a reader ended.
type ownError struct {
	r   io.Reader
	err error
}

func (o *ownError) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && err != io.EOF {
		o.err = err
	}
	return n, err
}

// lostIO leaves the end of a file alone.
func (f remoteFile) lostIO(n int, err error) (int, error) {
	if err == io.EOF {
		return n, err
	}
	return n, f.on.w.lost(err)
}

func (f remoteFile) Sync() error {
	if _, ok := f.on.c.HasExtension("fsync@openssh.com"); !ok {
		return nil
	}
	err := f.File.Sync()
	var status *sftp.StatusError
	if errors.As(err, &status) && status.FxCode() == sftp.ErrSSHFxOpUnsupported {
		return nil
	}
	return f.on.w.lost(err)
}
