package volume_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/volume"
)

// lateImage is an image.sif whose head is known last.
type lateImage struct{ head, rest []byte }

func (l lateImage) Walk(_ context.Context, emit func(volume.Entry) (uint32, error)) error {
	_, err := emit(volume.Entry{Attr: volume.Attr{Type: volume.Dir, Mode: 0o755, Mtime: time.Unix(1, 0)}})
	if err != nil {
		return err
	}
	_, err = emit(volume.Entry{
		Name: "image.sif", Attr: volume.Attr{Type: volume.File, Mode: 0o644, Mtime: time.Unix(1, 0)},
		Late: &volume.Late{HeadSize: int64(len(l.head)), Write: func(_ context.Context, w io.Writer) ([]byte, error) {
			_, err := w.Write(l.rest)
			return l.head, err
		}},
	})
	return err
}

// TestLateIsTheSameFormat: the independent reader reads what was sealed with its head last.
func TestLateIsTheSameFormat(t *testing.T) {
	t.Parallel()
	owner, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{33_000, 34_000, 37_000, 3_000_001} {
		content := bytes.Repeat([]byte("squash"), size)[:size]
		out := filepath.Join(t.TempDir(), "sealed")
		s, err := volume.SealFile(t.Context(), out, lateImage{content[:33_000], content[33_000:]},
			volume.SealOptions{Recipients: []age.Recipient{owner.Recipient()}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		v, err := indieRead(b, owner)
		if err != nil {
			t.Errorf("%d bytes: %v", size, err)
			continue
		}
		want := []string{". directory 0755 1.000000000", fmt.Sprintf("image.sif file 0644 1.000000000 %d %x", size, sha256.Sum256(content))}
		if !slices.Equal(v.lines, want) || v.checksum != s.Checksum.String() || v.digest != s.Digest.String() {
			t.Errorf("%d bytes: it reads %q, %s, %s", size, v.lines, v.checksum, v.digest)
		}
	}
}
