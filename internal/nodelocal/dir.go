package nodelocal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Dir is a run's own directory on its node. It holds the job's copies of the
// programs, the lock and the mount point of the private space.
type Dir struct {
	path string
	lock *os.File // nil until it is taken
}

// Own returns the directory at path if it was made for this run: what is in it
// will be removed.
func Own(path string) (*Dir, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, fmt.Errorf("the job's own directory: %w", err)
	}
	if st.Mode != unix.S_IFDIR|0o700 || int(st.Uid) != os.Geteuid() {
		return nil, errors.New("the job's own directory is not a directory of one's own with mode 0700")
	}
	if !filepath.IsAbs(path) {
		return nil, errors.New("the job's own directory must have an absolute name")
	}
	if err := errors.Join(nameable(path), checkBase(filepath.Dir(path))); err != nil {
		return nil, fmt.Errorf("the job's own directory: %w", err)
	}
	return &Dir{path: path}, nil
}

// Path returns the path of a file in the directory.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Lock takes the directory's lock, which says that its supervisor lives. It
// appears under its name when it is held, so that nobody else can take it in between.
func (d *Dir) Lock() error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	partial := d.Path(lockName + jobdir.PartialSuffix)
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	// Where the file system knows no locks, nobody can take this one either.
	if err = fsx.TryLock(f); errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	}
	if err == nil {
		_, err = f.WriteString(host + "\n")
	}
	if err == nil {
		err = os.Rename(partial, d.Path(lockName))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	d.lock = f
	return nil
}

// Note writes to the lock which directory on the shared storage the run has: node
// in the job's directory at path job, whose manifest has that digest. So its
// scratch volume can be removed should the run be killed.
func (d *Dir) Note(job string, digest manifest.Digest, node string) error {
	_, err := fmt.Fprintf(d.lock, "%s\n%s\n%s\n", job, digest, node)
	return err
}

// Remove removes what a run puts into its directory, and it if nothing else is
// in it. The lock is held until the process ends.
func (d *Dir) Remove() error {
	var errs []error
	for _, name := range []string{SpaceName, jobdir.Sealbatch, jobdir.Gocryptfs, lockName, ""} {
		if err := os.Remove(d.Path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
