package publish

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// dying counts actions and has the process killed at one of them.
type dying struct {
	transfer.Local
	keys  Keys
	v     victim
	count atomic.Int32 // actions are several at a time
}

func (d *dying) act(do func()) {
	n := int(d.count.Add(1))
	if n == d.v.At && !d.v.After {
		d.die()
	}
	do()
	if n == d.v.At {
		d.die()
	}
}

func (d *dying) die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func (d *dying) Create(p string, m fs.FileMode) (f transfer.WriteFile, err error) {
	d.act(func() { f, err = d.Local.Create(p, m) })
	return dyingFile{f, d}, err
}

func (d *dying) Reopen(p string) (f transfer.WriteFile, err error) {
	d.act(func() { f, err = d.Local.Reopen(p) })
	return dyingFile{f, d}, err
}

func (d *dying) Rename(from, to string) (err error) {
	d.act(func() { err = d.Local.Rename(from, to) })
	return err
}

func (d *dying) Run(ctx context.Context, argv []string, stdin io.Reader) (out, errOut []byte, exit int, err error) {
	d.act(func() { out, errOut, exit, err = d.Local.Run(ctx, argv, stdin) })
	return out, errOut, exit, err
}

func (d *dying) Remove(p string) (err error) {
	d.act(func() { err = d.Local.Remove(p) })
	return err
}

func (d *dying) Lstat(p string) (i fs.FileInfo, err error) {
	d.act(func() { i, err = d.Local.Lstat(p) })
	return i, err
}

func (d *dying) Secrets(ctx context.Context) (all iter.Seq2[keyapi.SecretEntry, error]) {
	d.act(func() { all = d.keys.Secrets(ctx) })
	return all
}

func (d *dying) GetSecret(ctx context.Context, id string) (i keyapi.SecretInfo, err error) {
	d.act(func() { i, err = d.keys.GetSecret(ctx, id) })
	return i, err
}

func (d *dying) PutSecret(ctx context.Context, id string, s keyapi.Secret) (i keyapi.SecretInfo, err error) {
	d.act(func() { i, err = d.keys.PutSecret(ctx, id, s) })
	return i, err
}

// dies reports whether a write at off is to be the last, the n-th action.
func (d *dying) dies(n int, off int64) bool {
	if d.v.Late {
		return off == d.v.Offset
	}
	return n == d.v.At
}

// dyingFile dies with half of what should be written.
type dyingFile struct {
	transfer.WriteFile
	d *dying
}

func (f dyingFile) WriteAt(b []byte, off int64) (n int, err error) {
	dies := f.d.dies(int(f.d.count.Load())+1, off)
	if dies && !f.d.v.After {
		_, _ = f.WriteFile.WriteAt(b[:len(b)/2], off)
	}
	if dies && f.d.v.Late && !f.d.v.After {
		f.d.die()
	}
	f.d.act(func() { n, err = f.WriteFile.WriteAt(b, off) })
	if dies && f.d.v.Late {
		f.d.die()
	}
	return n, err
}

func (f dyingFile) ReadFrom(r io.Reader) (n int64, err error) {
	f.d.act(func() { n, err = f.WriteFile.ReadFrom(r) })
	return n, err
}
