package trusted

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSharedGroup gives a file, and the directory that it is in, to a group, as
// Kubernetes does with volumes: only the group that counts as oneself may have them.
func TestSharedGroup(t *testing.T) {
	t.Parallel()
	mine := int64(os.Getegid())
	for _, c := range []struct {
		name      string
		group     int64
		file, dir fs.FileMode
		good      bool
	}{
		{"no group counts", -1, 0o440, 0o755, false},
		{"no group counts, the directory's", -1, 0o400, 0o775, false},
		{"another counts", mine + 1, 0o440, 0o755, false},
		{"it reads", mine, 0o440, 0o755, true},
		{"it writes", mine, 0o660, fs.ModeSetgid | 0o775, true},
		{"others read", mine, 0o444, 0o775, false},
		{"others write the directory", mine, 0o440, 0o777, false},
	} {
		s := newScene(t)
		check(t, os.Chmod(s.file, c.file), os.Chmod(s.dir, c.dir))
		w := newWalk(Secret)
		w.group = c.group
		f, err := w.file(s.file, os.O_RDONLY, 0)
		if (err == nil) != c.good || (err != nil && !errors.Is(err, ErrUnsafe)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if f != nil {
			_ = f.Close()
		}
		w.close()
	}
}

// TestSharedGroupLists: what an access list gives to others is not the group's.
func TestSharedGroupLists(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	check(t, unix.Setxattr(s.file, aclName, list(4, entry{aclUser, 4, stranger}), 0))
	w := newWalk(Secret)
	defer w.close()
	w.group = int64(os.Getegid())
	if f, err := w.file(s.file, os.O_RDONLY, 0); !errors.Is(err, ErrUnsafe) {
		t.Errorf("%v, %v: a stranger reads it", f, err)
	}
}

// TestShareGroup: root's group, and one that this process is not in, count as nobody's.
func TestShareGroup(t *testing.T) {
	for _, gid := range []int{0, -1, stranger} {
		if err := ShareGroup(gid); !errors.Is(err, ErrGroup) {
			t.Errorf("group %d: %v", gid, err)
		}
	}
	if g := newWalk(Public).group; g != -1 {
		t.Errorf("group %d counts", g)
	}
}
