package transfer

import (
	"fmt"
	"io/fs"
	"path"
	"sync"
	"syscall"

	"github.com/pkg/sftp"
)

// CheckAncestors looks at a directory and everything above it, symbolic links resolved. A directory
// that anyone can write to, and that has no sticky bit, is refused with ErrAncestor: anyone could put
// another tree in the place of what is uploaded there. Directories that a group can write to are
// normal on project scratch; they are noted, one sentence each.
func CheckAncestors(fsys FS, dir string) (notes []string, err error) {
	real, err := fsys.RealPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", At(dir), err)
	}
	var above []string
	for at := path.Clean(real); ; at = path.Dir(at) {
		if above = append(above, at); at == "/" || at == "." {
			break
		}
	}
	infos, errs := make([]fs.FileInfo, len(above)), make([]error, len(above))
	var asking sync.WaitGroup // at once: the login node may be far away
	for i, at := range above {
		asking.Go(func() { infos[i], errs[i] = fsys.Lstat(at) })
	}
	asking.Wait()
	for i, at := range above {
		if errs[i] != nil {
			return nil, fmt.Errorf("%s: %w", At(at), errs[i])
		}
		mode := infos[i].Mode()
		switch {
		case !mode.IsDir():
			return nil, fmt.Errorf("%s is not a directory", At(at))
		case mode.Perm()&0o002 != 0 && mode&fs.ModeSticky == 0:
			return nil, fail(Error{Kind: ErrAncestor, What: fmt.Sprintf("%s can be changed by anyone (mode %04o, no sticky bit)", At(at), mode.Perm()),
				Next: "choose another directory, or ask for chmod o-w or +t"})
		case mode.Perm()&0o020 != 0 && mode&fs.ModeSticky == 0:
			notes = append(notes, fmt.Sprintf("%s can be changed by its group%s; signatures and digests protect what lies there",
				At(at), groupOf(infos[i])))
		}
	}
	return notes, nil
}

func groupOf(info fs.FileInfo) string {
	switch s := info.Sys().(type) {
	case *sftp.FileStat:
		return fmt.Sprintf(" (gid %d)", s.GID)
	case *syscall.Stat_t:
		return fmt.Sprintf(" (gid %d)", s.Gid)
	}
	return ""
}
