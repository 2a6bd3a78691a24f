package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/volume"
)

// stream is standard input as one file.
type stream struct{ in Input }

// Walk implements volume.Source.
func (s stream) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	content, size, err := spool(ctx, s.in.Stdin, s.in.Spool)
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	defer content.Close()
	now := time.Now()
	if _, err := emit(volume.Entry{Attr: volume.Attr{Type: volume.Dir, Mode: 0o755, Mtime: now}}); err != nil {
		return err
	}
	_, err = emit(volume.Entry{
		Name: s.in.FileName, Attr: volume.Attr{Type: volume.File, Mode: 0o644, Mtime: now, Size: size, Nlink: 1},
		Open: func() (io.ReadCloser, error) { return io.NopCloser(content), nil },
	})
	return err
}

// spool keeps what r holds in a file without a name, encrypted with age under a
// key that only this process knows, and gives it back with its length. Nothing
// stays, however the process ends.
func spool(ctx context.Context, r io.Reader, dir string) (io.ReadCloser, int64, error) {
	f, err := os.CreateTemp(dir, ".sealbatch-stdin-*")
	if err != nil {
		return nil, 0, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	n, err := encrypt(ctx, f, r, id.Recipient())
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	var plain io.Reader
	if err == nil {
		plain, err = age.Decrypt(f, id)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return spooled{plain, f}, n, nil
}

func encrypt(ctx context.Context, w io.Writer, r io.Reader, to age.Recipient) (int64, error) {
	aw, err := age.Encrypt(w, to)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(aw, stoppable{ctx, r})
	if err != nil {
		return n, err
	}
	return n, aw.Close()
}

// stoppable ends reading when its context does.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s stoppable) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.r.Read(p)
}

// spooled is what spool gives back.
type spooled struct {
	io.Reader
	io.Closer
}
