package nodelocal

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// A supervisor that is killed by SIGKILL removes nothing: its node-local
// directory stays, and on the shared storage the scratch volume, whose key died
// with it. The user's next job on that node removes both.
//
// Whether a directory's owner lives is told by a lock (flock(2)) that the
// supervisor holds on a file in it. The kernel gives it up when the process
// ends, however it ends. The file has the host's name, since such a directory may
// lie on a file system that hosts share while locks are each host's own, and, once
// the run has a directory on the shared storage, where that is:
//
//	HOST
//	path of the job's directory
//	digest of its manifest
//	name of the node's directory in it

// Names of node-local directories (the job script's mktemp) and in them.
const (
	selfPrefix = "sealbatch."
	SpaceName  = "space" // mount point of the private tmpfs
	lockName   = "lock"
	TryName    = "try" // the job script's, to see whether programs run there
)

// youngest is the age from which a directory without a lock is dead: the job
// script copies the programs before the supervisor can lock.
const youngest = time.Hour

// maxLock bounds the lock file, in bytes.
const maxLock = 8 << 10

// Clear removes what killed jobs of this user left in places on this node, and
// returns how many there were. It leaves alone the directories that a live
// supervisor holds, other users' and other hosts', and those in places where others
// can put another directory of one's own under that name. What cannot be removed is
// logged.
func Clear(places []string, log *slog.Logger) (cleared int) {
	for _, place := range places {
		entries, err := os.ReadDir(place)
		if err != nil {
			continue // there need not be all of them
		}
		for _, e := range entries {
			if !e.IsDir() || !strings.HasPrefix(e.Name(), selfPrefix) {
				continue
			}
			dead, err := clearStray(filepath.Join(place, e.Name()))
			if err != nil {
				log.Warn("what a killed job left is not removed", "directory", filepath.Join(place, e.Name()), "error", err)
			} else if dead {
				cleared++
			}
		}
	}
	return cleared
}

// clearStray removes dir if its supervisor is dead.
func clearStray(dir string) (dead bool, err error) {
	root, err := openStray(dir)
	if err != nil {
		return false, nil // another user's, or gone
	}
	defer root.Close()
	own, age, err := inspectStray(root)
	if err != nil || !own {
		return false, err
	}
	lock, err := root.OpenFile(lockName, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if age < youngest {
			return false, nil
		}
		return true, removeStray(root, dir)
	case err != nil:
		return false, err
	}
	defer lock.Close()
	if fsx.TryLock(lock) != nil {
		return false, nil // it lives, or nobody can tell
	}
	return clearDead(root, dir, lock)
}

// openStray opens dir, itself and not what a link of that name leads to, if nobody else
// can put anything else under its name: nor can they, then, while it is cleared.
func openStray(dir string) (*os.Root, error) {
	if err := trusted.CheckDir(dir); err != nil {
		return nil, err
	}
	named, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if opened, err := root.Stat("."); err != nil || !os.SameFile(opened, named) {
		return nil, errors.Join(errors.New("it is a link"), err, root.Close())
	}
	return root, nil
}

// clearDead removes dir, whose lock nobody else holds, if it is this host's.
func clearDead(root *os.Root, dir string, lock *os.File) (dead bool, err error) {
	lines, err := readLock(lock)
	if err != nil {
		return false, err
	}
	if here, err := os.Hostname(); err != nil || lines[0] != here {
		return false, err
	}
	// The directory goes last: as long as it is there, the next job goes on.
	if err := clearScratch(lines[1:]); err != nil {
		return false, err
	}
	if err := clearMounts(root); err != nil {
		return false, err
	}
	return true, removeStray(root, dir)
}

// clearMounts removes what mounting by fusermount3 leaves when both the
// supervisor and its child are killed: dead mounts, and what is around them.
func clearMounts(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if st, err := root.Lstat(SpaceName); err != nil || !st.IsDir() {
		return nil
	}
	// The kernel's name for it: mounts are known by names without symbolic links.
	dir, err := os.Readlink(fsx.FDPath(d))
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, SpaceName)
	if _, err := root.Lstat(SpaceName + "/" + container.TreeRel); err != nil && len(sandbox.Mounts(dir)) == 0 {
		return nil // nothing that a run puts there
	}
	return sandbox.Clear(dir)
}

// inspectStray reports whether the directory is one's own and private, and its age.
func inspectStray(root *os.Root) (own bool, age time.Duration, err error) {
	d, err := root.Open(".")
	if err != nil {
		return false, 0, err
	}
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return false, 0, err
	}
	own = st.Mode == unix.S_IFDIR|0o700 && int(st.Uid) == os.Geteuid()
	return own, time.Since(time.Unix(st.Mtim.Unix())), nil
}

// readLock returns the lines of a lock; there is at least one.
func readLock(f *os.File) ([]string, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxLock))
	return strings.Split(string(b), "\n"), err
}

// removeStray removes what a run puts into its directory, and it if nothing else
// is in it.
func removeStray(root *os.Root, dir string) error {
	for _, name := range []string{
		SpaceName, TryName, jobdir.Sealbatch, jobdir.Gocryptfs, lockName + jobdir.PartialSuffix, lockName,
	} {
		if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return unix.Rmdir(dir)
}

// clearScratch removes a dead run's scratch volume from the job directory that
// its lock notes. One that cannot be opened, or is another job's now, is left alone.
func clearScratch(noted []string) error {
	if len(noted) < 3 {
		return nil // it died before it had one
	}
	digest, err := manifest.ParseDigest(noted[1])
	if err != nil {
		return nil
	}
	job, _, err := jobdir.Open(noted[0], digest)
	if err != nil {
		return nil
	}
	defer job.Close()
	return jobdir.RemoveScratch(job, noted[2])
}
