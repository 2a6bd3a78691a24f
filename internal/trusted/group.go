package trusted

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
)

// sharedGroup is ShareGroup's, or -1.
var sharedGroup atomic.Int64

func init() { sharedGroup.Store(-1) }

// ErrGroup says that a group cannot count as this process's user.
var ErrGroup = errors.New("it is not one of this process's groups")

// ShareGroup has what files and directories give to a group count as given to this
// process's user, from now on and in the whole process: for a group that nobody
// else is in, as that which Kubernetes gives a pod's volumes (fsGroup). Those that
// have an access list gain nothing. Root's group is no such group. ErrGroup if this
// process is not in it.
func ShareGroup(gid int) error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	if gid <= 0 || (gid != os.Getegid() && !slices.Contains(groups, gid)) {
		return fmt.Errorf("group %d: %w", gid, ErrGroup)
	}
	sharedGroup.Store(int64(gid))
	return nil
}

// shared reports whether a file's group counts as this process's user.
func (w *walk) shared(fi fs.FileInfo) bool {
	st, _ := fi.Sys().(*syscall.Stat_t) // always, on Linux
	return int64(st.Gid) == w.group
}
