package publish

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// arrival is a site that tells when the first bytes of a file have arrived.
type arrival struct {
	transfer.Local
	once *sync.Once
	came chan struct{}
}

func newArrival() arrival { return arrival{once: new(sync.Once), came: make(chan struct{})} }

func (a arrival) Create(p string, m fs.FileMode) (transfer.WriteFile, error) {
	f, err := a.Local.Create(p, m)
	return arriving{f, a}, err
}

type arriving struct {
	transfer.WriteFile
	a arrival
}

func (f arriving) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WriteFile.WriteAt(p, off)
	f.a.once.Do(func() { close(f.a.came) })
	return n, err
}

// TestUploadMeanwhile: what is sealed already is on its way while the rest is still read.
func TestUploadMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	site := newArrival()
	s.d.FS = site
	dir := filepath.Join(t.TempDir(), "in")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/a", make([]byte, 8<<20), 0o600),
		os.WriteFile(dir+"/b", []byte("b"), 0o600)); err != nil {
		t.Fatal(err)
	}
	early := false
	s.r.Input = &changing{Input: source.At(dir), change: func() error { // when b is opened
		select {
		case <-site.came:
			early = true
		case <-time.After(20 * time.Second):
		}
		return nil
	}}
	p := s.publishing(t)
	unlock, err := p.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if p.s, err = p.seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !early {
		t.Error("nothing was uploaded before all was sealed")
	}
	if err := p.publish(t.Context(), p.r.info(p.s)); err != nil {
		t.Fatal(err)
	}
	there, err := os.ReadFile(filepath.Join(s.r.DirAtRest, "d.sealed"))
	here, herr := os.ReadFile(s.r.SealedPath)
	if err := errors.Join(err, herr); err != nil || string(there) != string(here) {
		t.Errorf("the site has %d bytes that differ from %d, %v", len(there), len(here), err)
	}
}

// TestSealBrokenOff: what a run has uploaded of a volume that it never finished sealing is gone when it
// ends, or, where it could not see to that, after the next run.
func TestSealBrokenOff(t *testing.T) {
	t.Parallel()
	for name, removes := range map[string]bool{"at once": true, "by the next run": false} {
		s := newSetting(t)
		s.withState(t)
		site := newArrival()
		s.d.FS = noRemove{site, removes}
		if err := os.WriteFile(s.file, make([]byte, 8<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		p := s.publishing(t)
		unlock, err := p.lock()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		p.input.Input = stopping{p.input.Input, func() { <-site.came; cancel() }}
		if _, err := p.seal(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		left, _ := filepath.Glob(s.r.DirAtRest + "/*")
		if len(left) > 0 == removes {
			t.Errorf("%s: on the site: %q", name, left)
		}
		unlock()
		s.d.FS = transfer.Local{}
		if _, err := Run(t.Context(), s.d, s.r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(s.r.DirAtRest + "/*.partial"); len(left) > 0 {
			t.Errorf("%s: on the site after the next run: %q", name, left)
		}
	}
}

// noRemove is a site that nothing can be removed from, as when the connection is gone.
type noRemove struct {
	arrival
	removes bool
}

func (n noRemove) Remove(p string) error {
	if !n.removes {
		return errBroken
	}
	return n.arrival.Remove(p)
}

// stopping does something at the end of each file.
type stopping struct {
	Input
	stop func()
}

func (s stopping) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	return s.Input.Walk(ctx, func(e volume.Entry) (uint32, error) {
		if open := e.Open; open != nil {
			e.Open = func() (io.ReadCloser, error) {
				r, err := open()
				return stoppingReader{r, s.stop}, err
			}
		}
		return emit(e)
	})
}

type stoppingReader struct {
	io.ReadCloser
	stop func()
}

func (r stoppingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err == io.EOF {
		r.stop()
	}
	return n, err
}
