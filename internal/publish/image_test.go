package publish

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

// ofImage has s publish an image whose digest takes reading it; it returns how often it was read.
func (s *setting) ofImage(t *testing.T) (read *int) {
	s.withState(t)
	read = new(int)
	s.r.Kind, s.r.Image = manifest.KindImage, &manifest.Image{Reference: "x.sif", Of: manifest.OfFile, Platform: "linux/amd64"}
	s.r.Hash = func(context.Context) (manifest.Digest, error) {
		*read++
		b, err := os.ReadFile(s.file)
		return manifest.DigestOf(b), err
	}
	return read
}

// TestImageIsReadOnce: the digest of an image that is published, and has not changed, is known.
func TestImageIsReadOnce(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	read := s.ofImage(t)
	for i, c := range []struct {
		change   func() error
		already  bool
		read     int
		checksum bool
	}{
		{func() error { return nil }, false, 1, false},
		{func() error { return nil }, true, 1, false},
		{func() error { return os.Chtimes(s.file, time.Now(), time.Now()) }, true, 2, true},
		{func() error { return nil }, true, 2, false},
		{func() error { return os.WriteFile(s.file, []byte("another"), 0o600) }, false, 3, false},
	} {
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		s.r.Checksum = c.checksum
		p, err := Run(t.Context(), s.d, s.r)
		if err != nil || p.Already != c.already || *read != c.read {
			t.Errorf("%d: already %v, read %d times, %v", i, p.Already, *read, err)
		}
		b, err := os.ReadFile(s.file)
		if err != nil || p.Info.Image.Digest != manifest.DigestOf(b) {
			t.Errorf("%d: %+v, %v", i, p.Info.Image, err)
		}
		s.checkAnnounced(t, p)
	}
	if err := os.WriteFile(s.file, []byte("a third"), 0o600); err != nil {
		t.Fatal(err)
	}
	hash := s.r.Hash
	s.r.Hash = func(ctx context.Context) (manifest.Digest, error) {
		d, err := hash(ctx)
		return d, errors.Join(err, os.WriteFile(s.file, []byte("a 3rd"), 0o600))
	}
	if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, volume.ErrChanged) {
		t.Errorf("an image that was sealed otherwise than it was read: %v", err)
	}
	broken := errors.New("broken")
	s.r.Hash = func(context.Context) (manifest.Digest, error) { return manifest.Digest{}, broken }
	if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, broken) {
		t.Errorf("an image that cannot be read: %v", err)
	}
}

// TestSignedBy: what was checked once goes on being said of the same image, and of no other volume.
func TestSignedBy(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	mine, others := manifest.Digest{1}, manifest.Digest{2}
	nothing := func(Published) error { return nil }
	var last Published
	for i, c := range []struct {
		change      func(Published) error
		asked, said manifest.Digest
		already     bool
		writes      bool // the info file
	}{
		{nothing, manifest.Digest{}, manifest.Digest{}, false, false},
		{nothing, mine, mine, true, true},
		{nothing, manifest.Digest{}, mine, true, false},
		{func(p Published) error { return os.Remove(p.InfoPath) }, manifest.Digest{}, mine, true, true},
		{func(p Published) error { return os.Remove(p.Info.PathAtRest) }, manifest.Digest{}, mine, false, false}, // shipped again
		{nothing, others, others, true, true},
		{nothing, manifest.Digest{}, others, true, false},
		{func(Published) error { return os.WriteFile(s.file, []byte("another"), 0o600) }, manifest.Digest{}, manifest.Digest{}, false, false},
	} {
		if err := c.change(last); err != nil {
			t.Fatal(err)
		}
		s.r.Kind, s.r.Image = manifest.KindImage, &manifest.Image{
			Reference: "docker.io/x:1", Digest: manifest.Digest{9}, Of: manifest.OfManifest, Platform: "linux/amd64", SignedBy: c.asked,
		}
		var log bytes.Buffer
		s.d.Log = slog.New(slog.NewTextHandler(&log, nil))
		p, err := Run(t.Context(), s.d, s.r)
		if err != nil || p.Already != c.already || p.Info.Image.SignedBy != c.said ||
			strings.Contains(log.String(), "writing the info file") != c.writes {
			t.Errorf("%d: %+v, %v\n%s", i, p, err, log.String())
		}
		s.checkAnnounced(t, p)
		last = p
	}
}
