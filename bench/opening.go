package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// opening measures from the start of the program to the first byte.
func (b *bench) opening(ctx context.Context) error {
	const first, size = "first byte, 100,000 files", "first byte, 1 TB in 1,000 files"
	if b.only.MatchString(first) {
		b.say(first)
		c := contest{what: first, ours: contender{run: b.firstByteOf(b.data.sealedWide, b.data.last)}, short: true}
		took, err := c.hold(ctx, c.rounds(b.runs))
		if err != nil {
			return err
		}
		b.figures("Opening", figure{first, "s", seconds(took[0]), 0.3})
	}
	if !b.only.MatchString(size) {
		return nil
	}
	gb, tb := b.path("gb.sealed"), b.path("tb.sealed")
	for path, each := range map[string]int64{gb: 1e6, tb: 1e9} {
		if err := b.makeHollow(ctx, path, 1000, each); err != nil {
			return err
		}
	}
	return b.contests(ctx, "Opening large and small",
		contest{what: size, ours: contender{run: b.firstByteOf(tb, hollowFirst)}, short: true, rest: []contender{
			{"1 GB in 1,000 files", 0.9, b.firstByteOf(gb, hollowFirst)}, // no slower, within what is noise
		}})
}

func seconds(times []time.Duration) []float64 {
	out := make([]float64, len(times))
	for i, t := range times {
		out[i] = t.Seconds()
	}
	return out
}

// firstByteOf mounts a volume in a new process and reads a byte as soon as that is possible.
func (b *bench) firstByteOf(volume, name string) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (took time.Duration, err error) {
		if err := dropCaches(); err != nil {
			return 0, err
		}
		// The program itself comes from a disk that this is not about.
		if _, err := b.command(ctx, b.sealbatch(), "version"); err != nil {
			return 0, err
		}
		begin := time.Now()
		m, err := b.mountSealed(ctx, volume)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, m.close()) }()
		fd, err := unix.Open(filepath.Join(m.dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		if n, err := unix.Read(fd, make([]byte, 1)); n != 1 || err != nil {
			return 0, fmt.Errorf("read a byte of %s: %d, %w", name, n, err)
		}
		return time.Since(begin), nil
	}
}

// sizes prints the memory that was noted on the way, and the size of an index.
func (b *bench) sizes(context.Context) error {
	var fs []figure
	for _, what := range []string{memorySeal, memoryData, memoryWide} {
		fs = append(fs, figure{"peak memory, " + what, "MB", b.memory[what], 300})
	}
	f, err := os.Open(b.data.sealedWide)
	if err != nil {
		return err
	}
	defer f.Close()
	index, err := indexLength(f)
	if err != nil {
		return err
	}
	fs = append(fs, figure{"index of 100,000 files, a file", "bytes", []float64{float64(index) / float64(b.scaled(wideFiles))}, 60})
	b.figures("Sizes", fs...)
	return nil
}

// indexLength reads the length of the sealed index from a volume's footer.
func indexLength(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	var n [8]byte
	_, err = f.ReadAt(n[:], st.Size()-footerFromEnd+56)
	return int64(binary.BigEndian.Uint64(n[:])), err
}
