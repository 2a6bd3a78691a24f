package volume

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
)

// benchDir is on tmpfs, so that disks are not measured.
func benchDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "volume-bench-")
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func benchInput(b *testing.B, dir string, size int64) string {
	b.Helper()
	input := filepath.Join(dir, "input")
	f, err := os.Create(input)
	must(b, err)
	w := bufio.NewWriter(f)
	block := randomBytes(1 << 20)
	for n := int64(0); n < size; n += int64(len(block)) {
		block[n>>20%int64(len(block))]++
		_, err = w.Write(block)
		must(b, err)
	}
	must(b, w.Flush())
	must(b, f.Close())
	return input
}

func sealTo(b *testing.B, path, input string, rcpt age.Recipient) Sealed {
	b.Helper()
	f, err := os.Create(path)
	must(b, err)
	s, err := Seal(context.Background(), f, DirSource(input), SealOptions{Recipients: []age.Recipient{rcpt}})
	must(b, err)
	must(b, f.Close())
	return s
}

func BenchmarkSeal(b *testing.B) {
	const size = 1 << 30
	dir := benchDir(b)
	input, rcpt := benchInput(b, dir, size), newIdentity(b).Recipient()
	b.Run("tmpfs", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			sealTo(b, filepath.Join(dir, "sealed"), input, rcpt)
		}
	})
	b.Run("discard", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			_, err := Seal(context.Background(), io.Discard, DirSource(input), SealOptions{Recipients: []age.Recipient{rcpt}})
			must(b, err)
		}
	})
}

func BenchmarkSealSmallFiles(b *testing.B) {
	dir := benchDir(b)
	input := filepath.Join(dir, "small")
	must(b, os.Mkdir(input, 0o755))
	for i := range 20_000 {
		must(b, os.WriteFile(filepath.Join(input, fmt.Sprintf("file-%05d.txt", i)), randomBytes(1000), 0o644))
	}
	rcpt := newIdentity(b).Recipient()
	b.Run("seal", func(b *testing.B) {
		for b.Loop() {
			sealTo(b, filepath.Join(dir, "sealed"), input, rcpt)
		}
	})
	s := sealTo(b, filepath.Join(dir, "sealed"), input, rcpt)
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			r, err := OpenFile(filepath.Join(dir, "sealed"), s.Key)
			must(b, err)
			must(b, r.Close())
		}
	})
}

func BenchmarkRead(b *testing.B) {
	const size = 256 << 20
	dir := benchDir(b)
	input := benchInput(b, dir, size)
	s := sealTo(b, filepath.Join(dir, "sealed"), input, newIdentity(b).Recipient())
	r, err := OpenFile(filepath.Join(dir, "sealed"), s.Key)
	must(b, err)
	defer r.Close()
	node, ok := r.Lookup(0, "input")
	if !ok {
		b.Fatal("no input in the volume")
	}
	for _, chunk := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", chunk>>10), func(b *testing.B) {
			p := make([]byte, chunk)
			b.SetBytes(int64(chunk))
			b.ReportAllocs()
			var off int64
			for b.Loop() {
				_, err := r.ReadAt(node, p, off)
				must(b, err)
				off = (off + int64(chunk)) % size
			}
		})
	}
	b.Run("verify", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			_, err := r.Verify(context.Background(), VerifyOptions{Checksum: s.Checksum})
			must(b, err)
		}
	})
}
