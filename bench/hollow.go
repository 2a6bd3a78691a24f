package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/sealbatch/sealbatch/volume"
)

// A hollow volume has a true index, and one true file; all else is a hole in a
// sparse file. It shows what opening costs, whatever the size. Constants and
// layout: docs/sealed-volume.md.
const (
	hollowFirst   = "first"
	footerFromEnd = 512 + 1024
)

// makeHollow makes one: the first file, and count files of size bytes each.
func (b *bench) makeHollow(ctx context.Context, path string, count int, size int64) error {
	src := b.path("hollow")
	defer os.RemoveAll(src)
	if err := writeText(filepath.Join(src, hollowFirst), strings.Repeat("first", 1000)); err != nil {
		return err
	}
	if _, err := b.command(ctx, b.sealbatch(), "seal", src, "-o", path, "-r", b.recipient); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := stretch(f, b.identity, count, size); err != nil {
		return fmt.Errorf("make a hollow volume: %w", err)
	}
	return f.Close()
}

// stretch replaces the index of a volume that holds the first file alone.
func stretch(f *os.File, identity string, count int, size int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	ids, err := volume.ParseIdentityFile(identity, nil, nil)
	if err != nil {
		return err
	}
	key, err := volume.UnwrapKey(f, st.Size(), ids...)
	if err != nil {
		return err
	}
	defer key.Wipe()
	id, _, err := volume.ReadDigest(f, st.Size())
	if err != nil {
		return err
	}
	begin, length, err := lastContent(f)
	if err != nil {
		return err
	}
	records, offset := hollowRecords(begin, length, count, size)
	if err := f.Truncate(begin + length); err != nil {
		return err
	}
	return writeEnd(f, key, id, offset, uint64(count)+1, records)
}

// lastContent finds the last entry of the tar file before the index.
func lastContent(f *os.File) (begin, length int64, err error) {
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err != nil {
			return 0, 0, err
		}
		if h.Name == "index" {
			return begin, length, nil
		}
		// tar.Reader reads whole headers and nothing ahead.
		if begin, err = f.Seek(0, io.SeekCurrent); err != nil {
			return 0, 0, err
		}
		length = h.Size
	}
}

// hollowRecords are an index's records, and the place where the index can lie.
func hollowRecords(begin, length int64, count int, size int64) (records []byte, end int64) {
	attr := func(mode uint64) {
		records = binary.AppendUvarint(records, mode)
		records = binary.AppendVarint(records, 1_700_000_000)
		records = binary.AppendUvarint(records, 0)
	}
	file := func(name string, size, distance int64) {
		records = append(records, 2)               // type
		records = binary.AppendUvarint(records, 0) // parent
		records = binary.AppendUvarint(records, uint64(len(name)))
		records = append(records, name...)
		attr(0o644)
		records = binary.AppendUvarint(records, uint64(size))
		records = binary.AppendUvarint(records, uint64(distance))
	}
	attr(0o755)
	file(hollowFirst, 5000, begin)
	end = begin + length
	for i := range count {
		at := tarPadded(end) + 512 // behind a header
		file(fmt.Sprintf("hole%06d", i), size, at-end)
		end = at + 18 + size + (size+4095)/4096*32
	}
	return records, tarPadded(end) + 512
}

// tarPadded rounds up to whole blocks of a tar file.
func tarPadded(n int64) int64 { return (n + 511) / 512 * 512 }

// writeEnd writes the index at offset, the footer and the end of the tar file.
func writeEnd(f *os.File, key volume.Key, id volume.ID, offset int64, entries uint64, records []byte) error {
	zw, err := zstd.NewWriter(nil, zstd.WithWindowSize(4<<20))
	if err != nil {
		return err
	}
	packed := zw.EncodeAll(records, nil)
	length := int64(96 + len(packed) + 16)
	total := offset + tarPadded(length) + 512 + 512 + 1024
	h := binary.BigEndian.AppendUint64([]byte("SBINDEX1"), 1<<32) // version 1, zero
	h = append(h, id[:]...)
	for _, n := range []uint64{uint64(total), uint64(offset), entries, uint64(len(records)), uint64(len(packed))} {
		h = binary.BigEndian.AppendUint64(h, n)
	}
	var nonce [12]byte
	rand.Read(nonce[:]) // never fails
	h = append(append(h, nonce[:]...), make([]byte, 12)...)
	aead, err := indexCipher(key)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(aead.Seal(bytes.Clone(h), nonce[:], packed, h), offset); err != nil {
		return err
	}
	foot := binary.BigEndian.AppendUint64([]byte("sealbatch volume"), 1<<32)
	foot = append(foot, id[:]...)
	for _, n := range []int64{total, offset, length} {
		foot = binary.BigEndian.AppendUint64(foot, uint64(n))
	}
	if _, err := f.WriteAt(foot, total-footerFromEnd); err != nil {
		return err
	}
	return f.Truncate(total)
}

func indexCipher(key volume.Key) (cipher.AEAD, error) {
	master := key.Bytes()
	defer clear(master)
	derived, err := hkdf.Key(sha256.New, master, nil, "sealbatch index v1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
