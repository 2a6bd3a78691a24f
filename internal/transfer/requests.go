package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Requests that change something by its name, and the flags of SSH_FXP_OPEN and of
// attributes (draft-ietf-secsh-filexfer-02, sections 5 and 6).
const (
	askSetstat = 9
	askMkdir   = 14

	openCreate   = 0x08
	openTruncate = 0x10
	openNew      = 0x20 // SSH_FXF_EXCL

	attrPermissions = 4
)

// withMode returns the name under which the SFTP library is asked to make path. It sends
// no mode with SSH_FXP_OPEN and SSH_FXP_MKDIR, so that the server would choose one, and
// others could look in until it is changed. So the mode rides behind the name, after a
// byte that no name has, and the guard puts it where it belongs.
func withMode(path string, perm fs.FileMode) string {
	return fmt.Sprintf("%s\x00%04o", path, perm.Perm())
}

// cutMode is withMode's inverse.
func cutMode(name string) (path string, perm uint32, err error) {
	path, mode, ok := strings.Cut(name, "\x00")
	n, perr := strconv.ParseUint(mode, 8, 32)
	if !ok || perr != nil || len(mode) != 4 || n > 0o777 || path == "" {
		return "", 0, fmt.Errorf("%.200q would be made without a mode", name)
	}
	return path, uint32(n), nil
}

// complete returns a request of the library's as it goes to the server: one that makes a
// file or a directory says with which mode. What does harm where a directory on the way
// was exchanged is refused: whatever opens, or cuts, a file of that name that is there
// already, and changes of attributes by name. p is what the library wrote at once.
func complete(p []byte) ([]byte, error) {
	if len(p) < 9 {
		return nil, errors.New("a request that is cut short")
	}
	whole := uint64(len(p)) == 4+uint64(binary.BigEndian.Uint32(p))
	b := fields{rest: p[9:]}
	switch p[4] {
	case askSetstat:
		return nil, errors.New("attributes are not changed by name")
	case askOpen:
		name, flags := b.string(), b.number()
		end := len(p) - len(b.rest) // of what stays
		if attrs := b.number(); !whole || b.short || attrs != 0 || len(b.rest) > 0 {
			return nil, errors.New("a request to open a file that is not whole")
		}
		switch making := flags & openCreate; {
		case flags&openTruncate != 0, making != 0 && flags&openNew == 0:
			return nil, fmt.Errorf("%.200q would be opened as it is, or cut", name)
		case making != 0:
			return moded(p, name, p[end-4:end])
		}
	case askMkdir:
		name := b.string()
		if attrs := b.number(); !whole || b.short || attrs != 0 || len(b.rest) > 0 {
			return nil, errors.New("a request to make a directory that is not whole")
		}
		return moded(p, name, nil)
	}
	return p, nil
}

// moded returns the request p with the mode that rides behind its name as its attributes;
// flags stand between the two.
func moded(p []byte, name string, flags []byte) ([]byte, error) {
	path, perm, err := cutMode(name)
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(p)+8), p[:9]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(path)))
	out = append(append(out, path...), flags...)
	out = binary.BigEndian.AppendUint32(out, attrPermissions)
	out = binary.BigEndian.AppendUint32(out, perm)
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	return out, nil
}
