package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/fusefs"
	"github.com/sealbatch/sealbatch/volume"
)

// zerosCommand runs this program as a server of zeros.
const zerosCommand = "serve-zeros"

// probe measures one thing that bounds all others.
type probe struct {
	what, unit string
	run        func(context.Context) (float64, error)
}

// probes measures what the machine allows, in turns as in contests.
func (b *bench) probes(ctx context.Context) error {
	ps := []probe{
		{"probe: AES-256-GCM, opening 4 KiB blocks, one core", "GB/s", probeGCM},
		{"probe: SHA-256, one core", "GB/s", probeSHA},
		{"probe: copying memory, one core", "GB/s", probeCopy},
		{"probe: reading 1 GiB of the tmpfs", "GB/s", b.probeTmpfs},
		{"probe: reading 1 GiB of zeros by FUSE, one reader", "GB/s", b.probeZeros(1)},
		{"probe: reading 1 GiB of zeros by FUSE, four readers", "GB/s", b.probeZeros(4)},
		{"probe: one FUSE request and answer of 4 KiB", "us", b.probeRoundTrip},
	}
	values := make([][]float64, len(ps))
	for range b.runs {
		for i, p := range ps {
			if !b.only.MatchString(p.what) {
				continue
			}
			v, err := p.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", p.what, err)
			}
			values[i] = append(values[i], v)
		}
	}
	var fs []figure
	for i, p := range ps {
		fs = append(fs, figure{what: p.what, unit: p.unit, values: values[i]})
	}
	b.figures("What the machine allows", fs...)
	return nil
}

// rate runs f, which handles n bytes, for a while: GB/s.
func rate(n int, f func() error) (float64, error) {
	begin, total := time.Now(), 0
	for time.Since(begin) < 300*time.Millisecond {
		if err := f(); err != nil {
			return 0, err
		}
		total += n
	}
	return float64(total) / time.Since(begin).Seconds() / 1e9, nil
}

func probeGCM(context.Context) (float64, error) {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		return 0, err
	}
	aead, err := cipher.NewGCMWithNonceSize(block, 16)
	if err != nil {
		return 0, err
	}
	nonce, ad := make([]byte, 16), make([]byte, 24)
	sealed, out := aead.Seal(nil, nonce, make([]byte, 4096), ad), make([]byte, 0, 4096)
	return rate(256*4096, func() error {
		for range 256 {
			if _, err := aead.Open(out, nonce, sealed, ad); err != nil {
				return err
			}
		}
		return nil
	})
}

func probeSHA(context.Context) (float64, error) {
	b, h := make([]byte, 1<<20), sha256.New()
	return rate(len(b), func() error { _, err := h.Write(b); return err })
}

func probeCopy(context.Context) (float64, error) {
	from, to := make([]byte, 64<<20), make([]byte, 64<<20)
	for i := 0; i < len(from); i += 4096 {
		from[i], to[i] = 1, 1 // pages of their own
	}
	return rate(len(from), func() error { copy(to, from); return nil })
}

func (b *bench) probeTmpfs(ctx context.Context) (float64, error) {
	p := plan{Names: b.data.big, Threads: 1}
	bytes := b.data.want(p)
	took, err := cold(plain(b.data.tree), nil, p.read, bytes)(ctx)
	return float64(bytes) / took.Seconds() / 1e9, err
}

func (b *bench) probeZeros(readers int) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		took, err := cold(b.mountZeros, nil, plan{Names: zeroNames(), Threads: readers}.read, zeroFiles*b.zeroSize())(ctx)
		return float64(zeroFiles*b.zeroSize()) / took.Seconds() / 1e9, err
	}
}

// probeRoundTrip reads past the page cache.
func (b *bench) probeRoundTrip(ctx context.Context) (float64, error) {
	n := b.scaled(10_000)
	took, err := cold(b.mountZeros, nil, plan{Names: zeroNames(), Threads: 1, Blocks: n, Flags: unix.O_DIRECT}.read, int64(n)*4096)(ctx)
	return took.Seconds() * 1e6 / float64(n), err
}

func (b *bench) mountZeros(ctx context.Context) (*mounted, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return b.start(ctx, func(dir string) []string { return []string{self, zerosCommand, dir, fmt.Sprint(b.zeroSize())} })
}

func (b *bench) zeroSize() int64 { return max(4096, int64(b.scaled(bigBytes/bigFiles))) }

// zeroFiles is how many files the server of zeros has.
const zeroFiles = 8

func zeroNames() (names []string) {
	for i := range zeroFiles {
		names = append(names, strconv.Itoa(i))
	}
	return names
}

// serveZeros mounts a tree of zeros until it is unmounted: sealbatch's FUSE
// server with nothing behind it.
func serveZeros(dir, size string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	signal.Ignore(os.Interrupt) // unmounting ends it
	s, err := fusefs.Mount(dir, zeros(n), fusefs.MountOptions{})
	if err != nil {
		return err
	}
	return s.Wait()
}

// zeros is a root with files of zeros, of that size.
type zeros int64

func (z zeros) Attr(node uint32) volume.Attr {
	if node == 0 {
		return volume.Attr{Type: volume.Dir, Mode: 0o755, Mtime: time.Unix(0, 0), Nlink: 2}
	}
	return volume.Attr{Type: volume.File, Mode: 0o644, Mtime: time.Unix(0, 0), Nlink: 1, Size: int64(z)}
}

func (zeros) Readlink(uint32) string { return "" }
func (zeros) Len() int               { return zeroFiles + 1 }

func (zeros) Dirents(node uint32) (out []volume.Dirent) {
	if node == 0 {
		for i, name := range zeroNames() {
			out = append(out, volume.Dirent{Name: name, Node: uint32(i) + 1, Type: volume.File})
		}
	}
	return out
}

func (zeros) Lookup(dir uint32, name string) (uint32, bool) {
	i, err := strconv.ParseUint(name, 10, 8)
	return uint32(i) + 1, dir == 0 && err == nil && i < zeroFiles && strconv.FormatUint(i, 10) == name
}

func (z zeros) ReadAt(_ uint32, p []byte, off int64) (int, error) {
	if off < 0 || off > int64(z) {
		return 0, syscall.EINVAL
	}
	n := min(int64(len(p)), int64(z)-off)
	clear(p[:n])
	return int(n), nil
}
