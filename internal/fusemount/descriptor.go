package fusemount

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ReceiveFile reads one byte from u and returns it with the descriptor that came
// along, which there has to be.
func ReceiveFile(u *net.UnixConn) (byte, *os.File, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := u.ReadMsgUnix(b, oob)
	if err != nil {
		return 0, nil, err
	}
	file, err := PassedFile(oob[:oobn])
	if err == nil && file == nil {
		err = errors.New("no descriptor came along")
	}
	return b[0], file, err
}

// PassedFile returns the descriptor that a control message holds, nil if none. Go
// receives descriptors with MSG_CMSG_CLOEXEC.
func PassedFile(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return nil, errors.New("malformed control message")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("malformed control message")
	}
	return os.NewFile(uintptr(fds[0]), "/dev/fuse"), nil
}
