package noderun

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

// left gathers what of the outputs cannot be kept, or not as a whole. Names are for the
// recipients only: the receipt has their number.
type left struct {
	entries, special int
	list             []byte
}

func (l *left) add(path string, err error) {
	l.entries++
	if errors.Is(err, volume.ErrSpecial) {
		l.special++
	}
	l.list = jobdir.AppendLeft(l.list, jobdir.LeftEntry{Path: path, Reason: terse(err).Error()})
}

func (l *left) reset() { *l = left{} }

// nameLeft writes the names of what was left, encrypted to the recipients, and returns
// what the receipt says of it; nil if nothing was left.
func (s sealer) nameLeft(l left) *manifest.Left {
	if l.entries == 0 {
		return nil
	}
	out := &manifest.Left{Entries: l.entries, Special: l.special}
	var sealed bytes.Buffer
	err := encrypt(&sealed, l.list, s.rcpts)
	if err == nil {
		err = s.writePartial(jobdir.LeftName, func(f *os.File) error {
			_, err := f.Write(sealed.Bytes())
			return err
		})
	}
	if err != nil {
		s.log.Warn("what could not be kept is not named", "entries", l.entries, "error", terse(err))
		return out
	}
	out.Names = manifest.DigestOf(sealed.Bytes())
	s.log.Info("not everything could be kept", "entries", l.entries, "of these, sockets, pipes and devices", l.special)
	return out
}

func encrypt(w io.Writer, text []byte, rcpts []age.Recipient) error {
	to, err := age.Encrypt(w, rcpts...)
	if err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	if _, err := to.Write(text); err != nil {
		return err
	}
	return to.Close()
}
