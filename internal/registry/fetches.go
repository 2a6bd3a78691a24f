package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/spool"
)

// fetches brings an image's layers into a spool, each of them once.
type fetches struct {
	r      *Remote
	ctx    context.Context // until close
	cancel context.CancelFunc

	once   sync.Once
	err    error // why nothing was begun
	spool  *spool.Spool
	layers map[v1.Hash]*fetched
	all    sync.WaitGroup

	bar   progress.Bar
	done  atomic.Int64
	total int64
}

// fetched is a layer that is there when done is closed.
type fetched struct {
	d    v1.Descriptor
	done chan struct{}
	blob *spool.Blob
	err  error
}

func newFetches(ctx context.Context, r *Remote) *fetches {
	f := &fetches{r: r}
	f.ctx, f.cancel = context.WithCancel(ctx)
	return f
}

// open returns the layer d, as soon as it is whole. The first call begins to fetch all of them.
func (f *fetches) open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	f.once.Do(func() { f.err = f.begin() })
	if f.err != nil {
		return nil, f.err
	}
	l := f.layers[d.Digest]
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l.err != nil {
		return nil, l.err
	}
	return io.NopCloser(l.blob.Reader()), nil
}

var errClosed = errors.New("the image was closed")

// begin makes the spool, and starts the fetching in the background.
func (f *fetches) begin() (err error) {
	if f.ctx.Err() != nil {
		return errClosed
	}
	var order []*fetched
	f.layers = map[v1.Hash]*fetched{}
	for _, d := range f.r.Manifest.Layers {
		if f.layers[d.Digest] == nil {
			l := &fetched{d: d, done: make(chan struct{})}
			f.layers[d.Digest] = l
			order = append(order, l)
			f.total += d.Size
		}
	}
	if f.spool, err = spool.New(f.r.o.SpoolDir); err != nil {
		return err
	}
	if err := f.spool.Room(f.total); err != nil {
		return fmt.Errorf("the layers of %s: %w", f.r.Reference, err)
	}
	f.bar = f.r.o.Progress.Start("fetching "+f.r.Reference.String(), 0, f.total)
	f.all.Go(func() { f.run(order) })
	return nil
}

// run fetches the layers, some at a time. After the first failure no other is begun, and those on
// their way end; all have that failure as their error.
func (f *fetches) run(order []*fetched) {
	group, ctx := errgroup.WithContext(f.ctx)
	group.SetLimit(f.r.o.Parallel)
	for _, l := range order {
		group.Go(func() error {
			if l.err = f.one(ctx, l); l.err == nil {
				close(l.done)
			}
			return l.err
		})
	}
	err := group.Wait()
	f.bar.End(err == nil)
	for _, l := range order {
		if l.err != nil {
			l.err = err
			close(l.done)
		}
	}
}

func (f *fetches) one(ctx context.Context, l *fetched) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var w *spool.Writer
	b := &download{
		d:     l.d,
		fresh: func() io.Writer { w = f.spool.Create(); return w },
		moved: func(n int64) { f.bar.Update(f.done.Add(n), f.total) },
	}
	if err := f.r.fetch(ctx, b); err != nil {
		return fmt.Errorf("image %s: layer %s: %w", f.r.Reference, l.d.Digest, err)
	}
	blob, err := w.Finish()
	l.blob = blob
	return err
}

// close ends what is under way, and gives back the spool.
func (f *fetches) close() error {
	f.cancel()
	f.once.Do(func() { f.err = errClosed })
	f.all.Wait()
	if f.spool == nil {
		return nil
	}
	return f.spool.Close()
}
