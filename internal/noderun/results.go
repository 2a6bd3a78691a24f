package noderun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/hpcs"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

// Files in the output volume beside the application's own.
const (
	logFile      = "sealbatch.log"
	stdoutFile   = jobdir.StdoutName
	stderrFile   = jobdir.StderrName
	exitCodeFile = jobdir.ExitCodeName
)

// results writes into the mounted output volume; while there is none, nothing.
type results struct {
	log  *slog.Logger
	root *os.Root // nil while the volume is not mounted
}

// note adds a line to the detailed log. It lies in the output volume, so names
// may stand in it; losing a line is not worth failing a job for.
func (r *results) note(format string, args ...any) {
	line := time.Now().UTC().Format(time.RFC3339) + " " + fmt.Sprintf(format, args...) + "\n"
	r.write(logFile, line, os.O_APPEND)
}

// write writes to a file in the output volume. The application may have
// put anything there: symbolic links out of the volume are not followed.
func (r *results) write(name, data string, mode int) {
	if r.root == nil {
		return
	}
	f, err := r.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK|mode, 0o600)
	if err == nil {
		_, err = f.WriteString(data)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		r.log.Warn("cannot write among the results", "file", name, "error", terse(err))
	}
}

// read returns what a regular file in the output volume begins with, up to limit bytes; "" if there is none.
func (r *results) read(name string, limit int64) string {
	if r.root == nil {
		return ""
	}
	f, err := r.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return ""
	}
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return ""
	}
	return string(b)
}

func (r *results) close() {
	if r.root != nil {
		_ = r.root.Close()
		r.root = nil
	}
}

// terse cuts an error down to what may stand in the job log, where no file name
// of the user's does: its class and the system's word. note has the rest.
func terse(err error) error {
	var errno syscall.Errno
	for _, class := range []error{
		volume.ErrVersion, volume.ErrKey, volume.ErrChanged, volume.ErrSpecial, volume.ErrPath,
		volume.ErrFooter, volume.ErrIndex, volume.ErrBlock, volume.ErrSize, volume.ErrName, volume.ErrIntegrity,
		sandbox.ErrNoNamespace, sandbox.ErrUnmappedGroup, sandbox.ErrClosed,
		errTimeLimit, errCancelled, errNoTime, errNoSpace, errNoRoom, errUnread, errNotAll, context.Canceled,
		hpcs.ErrChecksum, hpcs.ErrDamaged, source.ErrArchive,
	} {
		if errors.Is(err, class) {
			return class
		}
	}
	if errors.As(err, &errno) {
		return errno
	}
	return errors.New("failed; " + logFile + " among the results says why")
}
