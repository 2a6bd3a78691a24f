package trusted

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// aclName is the extended attribute with a POSIX access list, and the rest its
// format (Linux: include/uapi/linux/posix_acl_xattr.h, posix_acl.h): a version of
// four bytes, then entries of a tag, permissions and a number, little-endian.
const (
	aclName    = "system.posix_acl_access"
	aclVersion = 2
	aclHeader  = 4
	aclEntry   = 8
	maxACL     = 4 << 10 // 511 entries; a longer one counts as the mode shows it

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// perm returns a mode's permissions. Where there is an access list, the group's
// bits of a mode are only its mask; then they are what the list really gives to
// others than root and this process's user, as systemd's LoadCredential= does with
// the service's.
func (w *walk) perm(f *os.File, fi fs.FileInfo) fs.FileMode {
	perm := fi.Mode().Perm()
	if perm&0o070 == 0 {
		return perm
	}
	acl := make([]byte, maxACL)
	n, err := unix.Getxattr(fsx.FDPath(f), aclName, acl)
	switch {
	case (errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP)) && w.shared(fi):
		return perm &^ 0o070
	case err != nil:
		return perm
	}
	group, ok := groupOf(acl[:n], w.uid, w.owner)
	if !ok {
		return perm
	}
	return perm&^0o070 | group<<3&perm
}

// groupOf returns what an access list gives to groups, and to users but root, uid and
// owner; false if it cannot be read.
func groupOf(acl []byte, uid, owner uint32) (given fs.FileMode, ok bool) {
	if len(acl) < aclHeader || binary.LittleEndian.Uint32(acl) != aclVersion || (len(acl)-aclHeader)%aclEntry != 0 {
		return 0, false
	}
	for e := acl[aclHeader:]; len(e) > 0; e = e[aclEntry:] {
		perm, id := fs.FileMode(binary.LittleEndian.Uint16(e[2:])), binary.LittleEndian.Uint32(e[4:])
		switch binary.LittleEndian.Uint16(e) {
		case aclGroupObj, aclGroup:
			given |= perm
		case aclUser:
			if id != 0 && id != uid && id != owner {
				given |= perm
			}
		case aclUserObj, aclMask, aclOther:
		default:
			return 0, false
		}
	}
	return given & 7, true
}
