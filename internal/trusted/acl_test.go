package trusted

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// entry is one line of an access list.
type entry struct {
	tag, perm uint16
	id        uint32
}

const noID = ^uint32(0)

func encode(entries ...entry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// list is an access list of a file whose owner may read and write it; its mask is rw.
func list(group uint16, named ...entry) []byte {
	all := append(named, entry{aclUserObj, 6, noID}, entry{aclGroupObj, group, noID}, entry{aclMask, 6, noID},
		entry{aclOther, 0, noID})
	slices.SortStableFunc(all, func(a, b entry) int { return int(a.tag) - int(b.tag) }) // as the kernel wants them
	return encode(all...)
}

// TestAccessLists sets lists on a file: those that name only root and oneself give
// nothing to others, whatever the mask is that shows as the group's bits.
func TestAccessLists(t *testing.T) {
	t.Parallel()
	me := uint32(os.Geteuid())
	for _, c := range []struct {
		name            string
		list            []byte
		public, private bool
	}{
		{"oneself", list(0, entry{aclUser, 6, me}), true, true},
		{"root", list(0, entry{aclUser, 6, 0}), true, true},
		{"another reads", list(0, entry{aclUser, 4, stranger}), true, false},
		{"another writes", list(0, entry{aclUser, 6, stranger}), false, false},
		{"oneself and another", list(0, entry{aclUser, 6, me}, entry{aclUser, 2, stranger}), false, false},
		{"a group reads", list(0, entry{aclGroup, 4, stranger}), true, false},
		{"a group writes", list(0, entry{aclGroup, 2, stranger}), false, false},
		{"its group reads", list(4, entry{aclUser, 6, me}), true, false},
		{"its group writes", list(6, entry{aclUser, 6, me}), false, false},
	} {
		s := newScene(t)
		check(t, unix.Setxattr(s.file, aclName, c.list, 0))
		if fi, err := os.Stat(s.file); err != nil || fi.Mode().Perm() != 0o660 {
			t.Errorf("%s: mode %v, %v: the mask does not show", c.name, fi.Mode(), err)
		}
		for kind, good := range map[Kind]bool{Public: c.public, Secret: c.private} {
			if err := Check(s.file, kind); (err == nil) != good || (err != nil && !errors.Is(err, ErrUnsafe)) {
				t.Errorf("%s, kind %d: %v", c.name, kind, err)
			}
		}
		check(t, unix.Chmod(s.file, 0o600), Check(s.file, Secret)) // the hint: it makes the mask empty
	}
	s := newScene(t)
	check(t, unix.Setxattr(s.top, aclName, list(0, entry{aclUser, 7, stranger}), 0))
	if err := Check(s.file, Public); !errors.Is(err, ErrUnsafe) {
		t.Errorf("another may write a directory on the way: %v", err)
	}
}

func FuzzAccessList(f *testing.F) {
	f.Add(list(0))
	f.Add(list(6, entry{aclUser, 6, stranger}))
	f.Add([]byte{2, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if given, ok := groupOf(b, 1, 1); given&^fs.FileMode(7) != 0 || (!ok && given != 0) {
			t.Errorf("%o, %v", given, ok)
		}
	})
}
