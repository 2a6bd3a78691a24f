package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/output"
)

// The index names the places of everything behind keys.age, so a new keys.age
// must take as many tar blocks as the old one. Therefore a fresh one is made
// larger than it has to be.
const (
	keysUnit  = 4096 // it takes a multiple of this,
	keysSpare = 1024 // with at least this much room for more recipients
)

// wrapFresh is WrapKey with room for further recipients.
func wrapFresh(w io.Writer, id ID, key Key, rcpts ...age.Recipient) error {
	var plain bytes.Buffer
	if err := WrapKey(&plain, id, key, rcpts...); err != nil {
		return err
	}
	room := (plain.Len() + keysSpare + keysUnit - 1) / keysUnit * keysUnit
	b, err := wrapInto(int64(room), id, key, rcpts)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

// wrapInto returns a keys.age that takes room bytes, whole tar blocks. ErrRoom if
// the recipients need more.
func wrapInto(room int64, id ID, key Key, rcpts []age.Recipient) ([]byte, error) {
	var b bytes.Buffer
	if err := WrapKey(&b, id, key, rcpts...); err != nil {
		return nil, err
	}
	free := int(room) - b.Len()
	if free < 0 {
		return nil, fmt.Errorf("%w: they need %d bytes, %s has %d; name fewer, or seal the data anew", ErrRoom, b.Len(), keysName, room)
	}
	if free < tarBlock {
		return b.Bytes(), nil
	}
	zeros := free * 3 / 4
	for greaseLength(zeros) > free {
		zeros--
	}
	b.Reset()
	if err := wrapKey(&b, id, key, rcpts, zeros); err != nil {
		return nil, err
	}
	if padded(int64(b.Len())) != room {
		return nil, fmt.Errorf("wrap the key: %d bytes instead of %d", b.Len(), room)
	}
	return b.Bytes(), nil
}

// Rewrap replaces the recipients of the sealed volume at path by others. ids
// must open it. Neither key nor data change, and the volume digest stays the
// same, but the file's checksum does not. The new file gets the name when it is
// complete: path, or what it leads to as a link, always is the old volume or the
// new one. ErrRoom if the recipients do not fit. Who could open the volume before may have kept a copy.
func Rewrap(ctx context.Context, path string, ids []age.Identity, rcpts []age.Recipient) (ID, Digest, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ID{}, Digest{}, err
	}
	f, err := fsx.OpenRegular(path)
	if err != nil {
		return ID{}, Digest{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return ID{}, Digest{}, err
	}
	key, err := UnwrapKey(f, fi.Size(), ids...)
	if err != nil {
		return ID{}, Digest{}, err
	}
	defer key.Wipe()
	// The index has to open, but is not inflated: it may be of any size.
	id, digest, err := OpenOptions{MaxIndex: AnyIndex}.CheckKey(f, fi.Size(), key)
	if err != nil {
		return ID{}, Digest{}, err
	}
	head, err := rewrappedHead(f, id, key, rcpts)
	if err != nil {
		return ID{}, Digest{}, err
	}
	return id, digest, replaceHead(ctx, f, fi, path, head, digest)
}

// rewrappedHead returns the beginning of a volume up to the end of its keys.age, with
// another keys.age.
func rewrappedHead(r io.ReaderAt, id ID, key Key, rcpts []age.Recipient) ([]byte, error) {
	old, err := tar.NewReader(io.NewSectionReader(r, 0, tarBlock+maxKeysAge)).Next()
	if err != nil {
		return nil, fmt.Errorf("%w: the volume does not begin with it", errKeysAge)
	}
	keys, err := wrapInto(padded(old.Size), id, key, rcpts)
	if err != nil {
		return nil, err
	}
	var head bytes.Buffer
	h := tar.Header{Typeflag: tar.TypeReg, Name: keysName, Mode: 0o600, Size: int64(len(keys)),
		ModTime: plainTime(old.ModTime.Truncate(time.Second)), Format: tar.FormatPAX}
	if err := tar.NewWriter(&head).WriteHeader(&h); err != nil {
		return nil, fmt.Errorf("write the sealed volume: %w", err)
	}
	head.Write(keys)
	head.Write(make([]byte, tarBlock+padded(old.Size)-int64(head.Len())))
	return head.Bytes(), nil
}

// replaceHead writes head and what follows it in f to a new file, and gives it
// path's name.
func replaceHead(ctx context.Context, f *os.File, fi os.FileInfo, path string, head []byte, want Digest) error {
	out, err := output.File{Path: path, Replace: true}.Create()
	if err != nil {
		return err
	}
	defer out.Discard()
	if err := copyBehind(ctx, out.File, f, head, fi.Size()); err != nil {
		return err
	}
	if err := out.Chmod(fi.Mode().Perm()); err != nil {
		return err
	}
	_, got, err := ReadDigest(out, fi.Size())
	if err == nil && got != want {
		err = fmt.Errorf("%s %w", path, ErrChanged)
	}
	if err != nil {
		return err
	}
	return out.Commit()
}

// copyBehind writes head, and then f from where head ends. The kernel copies,
// or shares blocks, where it can.
func copyBehind(ctx context.Context, out, f *os.File, head []byte, size int64) error {
	if _, err := out.Write(head); err != nil {
		return err
	}
	if _, err := f.Seek(int64(len(head)), io.SeekStart); err != nil {
		return err
	}
	const step = 256 << 20
	for at := int64(len(head)); at < size; at += step {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := io.CopyN(out, f, min(step, size-at)); err != nil {
			return fmt.Errorf("copy the sealed volume: %w", err)
		}
	}
	return nil
}
