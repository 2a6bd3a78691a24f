package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"

	"github.com/pkg/sftp"
)

// SFTP parameters. OpenSSH takes writes of up to 255 KiB (limits@openssh.com: SFTP_MAX_MSG_LENGTH less
// 1 KiB); on loopback they are 1.7 times as fast as 128 KiB and three times as 32 KiB. The window of an
// SSH channel holds 2 MiB, so that more requests in flight than these gain nothing.
const (
	sftpPacket   = 255 << 10
	sftpRequests = 64
)

// remote is the login node's file system.
type remote struct{ c *sftp.Client }

// FS opens an SFTP session, once; the connection's end ends it.
func (c *Client) FS() (FS, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sftp == nil {
		s, err := sftp.NewClient(c.conn, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true),
			sftp.MaxPacketUnchecked(sftpPacket), sftp.MaxConcurrentRequestsPerFile(sftpRequests))
		if err != nil {
			return nil, &Error{Kind: ErrConnect, What: "the login node does not offer SFTP", Err: err,
				Next: "does `sftp` to it work? Lines that a shell start-up file prints break it"}
		}
		c.sftp = s
	}
	return remote{c.sftp}, nil
}

func (r remote) Stat(path string) (fs.FileInfo, error)     { return r.c.Stat(path) }
func (r remote) Lstat(path string) (fs.FileInfo, error)    { return r.c.Lstat(path) }
func (r remote) Remove(path string) error                  { return r.c.Remove(path) }
func (r remote) Chmod(path string, perm fs.FileMode) error { return r.c.Chmod(path, perm.Perm()) }
func (r remote) Readlink(path string) (string, error)      { return r.c.ReadLink(path) }
func (r remote) RealPath(path string) (string, error)      { return r.c.RealPath(path) }
func (r remote) Open(path string) (File, error)            { return asFile(r.c.Open(path)) }

func asFile(f *sftp.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (r remote) Create(path string, perm fs.FileMode) (WriteFile, error) {
	f, err := r.c.OpenFile(path, openExclusive)
	if err != nil {
		return nil, r.exists(path, err)
	}
	// The protocol's library cannot set the mode at creation; nothing is in the file yet.
	if err := f.Chmod(perm.Perm()); err != nil {
		_ = f.Close()
		_ = r.c.Remove(path)
		return nil, err
	}
	return remoteFile{f, r.c}, nil
}

// exists tells fs.ErrExist from other failures, for which SFTP 3 has one and the same code.
func (r remote) exists(path string, err error) error {
	if _, statErr := r.c.Lstat(path); statErr == nil {
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	return fmt.Errorf("%s: %w", path, err)
}

func (r remote) Mkdir(path string, perm fs.FileMode) error {
	if err := r.c.Mkdir(path); err != nil {
		return r.exists(path, err)
	}
	if err := r.c.Chmod(path, perm.Perm()); err != nil {
		_ = r.c.RemoveDirectory(path)
		return fmt.Errorf("%s: %w", path, err)
	}
	if perm&0o022 == 0 { // until now the umask decided who could put something there
		entries, err := r.c.ReadDir(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if len(entries) > 0 {
			return fmt.Errorf("%s: somebody put %q there while it was made", path, entries[0].Name())
		}
	}
	return nil
}

func (r remote) Rename(from, to string) error {
	if _, ok := r.c.HasExtension("posix-rename@openssh.com"); !ok {
		return fmt.Errorf("%s: the server cannot rename in one step (no posix-rename@openssh.com)", to)
	}
	return r.c.PosixRename(from, to)
}

func (r remote) ReadDir(path string) ([]fs.FileInfo, error) {
	entries, err := r.c.ReadDir(path)
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	return entries, err
}

// remoteFile syncs only where the server can.
type remoteFile struct {
	*sftp.File
	c *sftp.Client
}

func (f remoteFile) Sync() error {
	if _, ok := f.c.HasExtension("fsync@openssh.com"); !ok {
		return nil
	}
	err := f.File.Sync()
	var status *sftp.StatusError
	if errors.As(err, &status) && status.FxCode() == sftp.ErrSSHFxOpUnsupported {
		return nil
	}
	return err
}
