package keyserver

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// fileVersion tells one content of a file from the next without reading it. The zero
// value is no file's.
type fileVersion struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
	// settled says that the file was older than settleTime when it was read: a
	// change of a younger one may leave all of these numbers as they were.
	settled bool
	read    time.Time
}

// rereadEvery bounds how often a file is read that has not settled.
const rereadEvery = 100 * time.Millisecond

func versionOf(st os.FileInfo, now time.Time) fileVersion {
	v := fileVersion{size: st.Size(), read: now}
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		v.dev, v.ino, v.mtime, v.ctime = s.Dev, s.Ino, s.Mtim, s.Ctim
		v.settled = now.Sub(time.Unix(s.Ctim.Unix())) > settleTime
	}
	return v
}

// stillThere reports whether path holds this version.
func (v fileVersion) stillThere(path string) bool {
	st, err := os.Stat(path)
	if err != nil || v == (fileVersion{}) {
		return false
	}
	now := time.Now()
	if !v.settled && now.Sub(v.read) >= rereadEvery {
		return false
	}
	w := versionOf(st, now)
	w.settled, w.read = v.settled, v.read
	return v == w
}

// readAccounts reads the file, and says which version that is. After an error the
// version is none.
func readAccounts(path string) ([]byte, fileVersion, error) {
	f, err := trusted.Open(path, trusted.Public)
	if err != nil {
		return nil, fileVersion{}, fmt.Errorf("accounts: %w", err)
	}
	defer f.Close()
	st, err := f.Stat() // before it is read: what changes from now on will be another version
	if err != nil {
		return nil, fileVersion{}, fmt.Errorf("accounts: %w", err)
	}
	v := versionOf(st, time.Now())
	b, err := fsx.ReadAll(f, maxAccountsFile)
	if err != nil {
		return nil, fileVersion{}, fmt.Errorf("accounts: %s: %w", path, err)
	}
	return b, v, nil
}
