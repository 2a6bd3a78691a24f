package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/volume"
)

// madeUp is an input that exists only in memory.
type madeUp struct {
	content   []byte
	resumable bool
	walks     int
}

func (m *madeUp) String() string { return "made-up input" }

func (m *madeUp) Scan(context.Context) (u volume.Usage, fingerprint volume.Digest, err error) {
	u.Add(volume.File, int64(len(m.content)), true)
	if m.resumable {
		fingerprint = sha256.Sum256(m.content)
	}
	return u, fingerprint, nil
}

func (m *madeUp) Walk(_ context.Context, emit func(volume.Entry) (uint32, error)) error {
	m.walks++
	top, err := emit(volume.Entry{Attr: volume.Attr{Type: volume.Dir, Mode: 0o755, Mtime: time.Unix(1, 0)}})
	if err != nil {
		return err
	}
	_, err = emit(volume.Entry{
		Parent: top, Name: "renamed",
		Attr: volume.Attr{Type: volume.File, Mode: 0o644, Mtime: time.Unix(1, 0), Size: int64(len(m.content)), Nlink: 1},
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.content)), nil },
	})
	return err
}

// TestMadeUpInput: an input needs no files. One with a fingerprint is resumed after
// the run was broken off, one without is sealed again, and the hint says so.
func TestMadeUpInput(t *testing.T) {
	t.Parallel()
	for _, resumable := range []bool{true, false} {
		s := newSetting(t)
		s.withState(t)
		in := &madeUp{content: make([]byte, 30_000), resumable: resumable}
		s.r.Input = in
		keys := s.service.Client(t, s.d.Signer)
		s.d.Keys = awayKeys{keys}
		_, err := Run(t.Context(), s.d, s.r)
		hint := "the same command goes on"
		if !resumable {
			hint = "the same command, with the same made-up input, begins again"
		}
		if err == nil || !strings.Contains(fault.Hint(err), hint) {
			t.Errorf("resumable %t: %v; %s", resumable, err, fault.Hint(err))
		}
		before, err := os.ReadFile(s.r.SealedPath)
		if err != nil {
			t.Fatal(err)
		}
		s.d.Keys = keys
		p, err := Run(t.Context(), s.d, s.r)
		if err != nil {
			t.Fatal(err)
		}
		s.checkVolume(t, p.Info)
		now, err := os.ReadFile(p.Info.PathAtRest)
		if again := in.walks == 2; err != nil || again == resumable || bytes.Equal(before, now) != resumable {
			t.Errorf("resumable %t: walked %d times, the same ciphertext: %t, %v", resumable, in.walks, bytes.Equal(before, now), err)
		}
	}
}

// growing is a made-up input that gets more while it is sealed.
type growing struct{ madeUp }

func (g *growing) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	err := g.madeUp.Walk(ctx, emit)
	g.content = append(g.content, 'x')
	return err
}

// TestMadeUpInputChanges: what has a fingerprint is compared when it is sealed.
func TestMadeUpInputChanges(t *testing.T) {
	t.Parallel()
	for _, resumable := range []bool{true, false} {
		s := newSetting(t)
		s.r.Input = &growing{madeUp{content: make([]byte, 30_000), resumable: resumable}}
		_, err := Run(t.Context(), s.d, s.r)
		if errors.Is(err, volume.ErrChanged) != resumable {
			t.Errorf("resumable %t: %v", resumable, err)
		}
		if resumable {
			if !strings.Contains(err.Error(), `"made-up input" changed`) {
				t.Errorf("%v", err)
			}
			s.nothingPublished(t)
		}
	}
}
