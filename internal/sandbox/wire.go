package sandbox

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
)

// maxFrame bounds a message between a Space and its child. It holds any command
// line that Linux can execute and the small files that WriteFile is for.
const maxFrame = 8 << 20

type operation uint8

const (
	opInit operation = iota + 1
	opMkdir
	opWriteFile
	opMount
	opSettle
	opUnmount
	opFreeze
	opStart
	opSignal
	opKillAll
)

// request is what a Space asks of its child. ID is answered by a reply, and for
// opStart later also by a notice of the process's end.
type request struct {
	ID     uint64
	Op     operation
	Mode   Mode             // opInit
	Helper fusemount.Helper // opInit, unless Mode is Namespace
	Path   string           // absolute
	Perm   uint32           // opMkdir, opWriteFile
	Data   []byte           // opWriteFile
	Bytes  int64            // opInit: size of the tmpfs
	Type   string           // opMount: the subtype of fuse
	RO     bool             // opMount
	Detach bool             // opUnmount: lazily
	Cmd    Cmd              // opStart
	Proc   uint64           // opSignal: ID of the opStart
	Signal int              // opSignal
	Limit  time.Duration    // opKillAll
}

// reply answers request ID. Exited marks the end of a started process instead.
type reply struct {
	ID     uint64
	Err    string
	Errno  int // of Err, 0 if it had none
	Exited bool
	Status uint32 // as wait(2) gives it
}

// remoteError is an error that happened in the child.
type remoteError struct {
	text  string
	errno unix.Errno
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

func (r *reply) setError(err error) {
	if err == nil {
		return
	}
	r.Err = err.Error()
	var errno unix.Errno
	if errors.As(err, &errno) {
		r.Errno = int(errno)
	}
}

func (r *reply) err() error {
	if r.Err == "" {
		return nil
	}
	return &remoteError{text: r.Err, errno: unix.Errno(r.Errno)}
}

// wire carries length-prefixed gob messages, and descriptors, over a Unix stream
// socket. (Not JSON: arguments and paths need not be UTF-8.)
type wire struct {
	conn *net.UnixConn
	mu   sync.Mutex // of writers
}

func newWire(f *os.File) (*wire, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a Unix socket")
	}
	return &wire{conn: u}, nil
}

// send writes v, and passes the descriptor fd with it unless it is negative.
func (w *wire) send(v any, fd int) error {
	var buf bytes.Buffer
	buf.Write(make([]byte, 4))
	if err := gob.NewEncoder(&buf).Encode(v); err != nil {
		return err
	}
	size := buf.Len() - 4
	if size > maxFrame {
		return fmt.Errorf("a message of %d bytes, more than %d", size, maxFrame)
	}
	frame := buf.Bytes()
	binary.BigEndian.PutUint32(frame, uint32(size))
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, _, err := w.conn.WriteMsgUnix(frame[:4], rights, nil); err != nil {
		return err
	}
	_, err := w.conn.Write(frame[4:])
	return err
}

// recv reads into v. file is nil if no descriptor came along.
func (w *wire) recv(v any) (file *os.File, err error) {
	head, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := w.conn.ReadMsgUnix(head, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	if file, err = fusemount.PassedFile(oob[:oobn]); err != nil {
		return nil, err
	}
	if err = w.body(head, n, v); err != nil && file != nil {
		file.Close()
		file = nil
	}
	return file, err
}

func (w *wire) body(head []byte, have int, v any) error {
	if _, err := io.ReadFull(w.conn, head[have:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxFrame {
		return fmt.Errorf("a message of %d bytes, more than %d", size, maxFrame)
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(w.conn, frame); err != nil {
		return err
	}
	return gob.NewDecoder(bytes.NewReader(frame)).Decode(v)
}
