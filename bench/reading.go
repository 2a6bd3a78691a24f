package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// task reads from a tree and says how many bytes it read.
type task func(ctx context.Context, dir string) (int64, error)

// cold measures a task on a mount just made, after caches were dropped. First,
// if not nil, comes before it and does not count.
func cold(mount func(context.Context) (*mounted, error), first, do task, want int64) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (took time.Duration, err error) {
		m, err := mount(ctx)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, m.close()) }()
		if err := dropCaches(); err != nil {
			return 0, err
		}
		if first != nil {
			if _, err := first(ctx, m.dir); err != nil {
				return 0, err
			}
		}
		begin := time.Now()
		n, err := do(ctx, m.dir)
		took = time.Since(begin)
		if err == nil && n != want {
			err = fmt.Errorf("read %d bytes instead of %d", n, want)
		}
		return took, err
	}
}

// reading compares what jobs do with a mounted dataset.
func (b *bench) reading(ctx context.Context) error {
	d := &b.data
	big := func(readers int) task { return files(d.big, readers) }
	row := func(what string, goal float64, first, do task, want int64) contest {
		return contest{what: what, ours: contender{run: cold(b.sealedData, first, do, want)}, rest: []contender{
			{"gocryptfs", goal, cold(b.cipherData, first, do, want)},
		}}
	}
	random := func(depth int) contest {
		n := b.scaled(20_000)
		return row(fmt.Sprintf("%d random reads of 4 KiB, %d at once", n, depth), 1.2, nil, randomReads(d.big, n, depth), int64(n)*4096)
	}
	second := row("1 GiB, second time", 0, big(1), big(1), d.bigBytes)
	second.rest = append(second.rest, contender{"plain tmpfs", 0.8, cold(plain(d.tree), big(1), big(1), d.bigBytes)})
	small := row("20,000 small files, cold", 3, nil, files(d.small, 1), d.smallBytes)
	small.rest = append(small.rest, contender{"plain tmpfs", 0, cold(plain(d.tree), nil, files(d.small, 1), d.smallBytes)})
	return b.contests(ctx, "Reading a mounted dataset",
		row("1 GiB, cold, one reader", 1.5, nil, big(1), d.bigBytes),
		row("1 GiB, cold, four readers", 1.5, nil, big(4), d.bigBytes),
		second, small,
		b.finding("find over 100,000 files"),
		b.finding("find -size over 100,000 files", "-size", "+1000c"),
		random(1), random(16))
}

// sealedData mounts the sealed data and notes how much memory that took.
func (b *bench) sealedData(ctx context.Context) (*mounted, error) {
	m, err := b.mountSealed(ctx, b.data.sealed)
	if m != nil {
		m.note = func(mb float64) { b.memory[memoryData] = append(b.memory[memoryData], mb) }
	}
	return m, err
}

func (b *bench) cipherData(ctx context.Context) (*mounted, error) {
	return b.mountGocryptfs(ctx, b.data.cipher, true)
}

// plain is a directory as it is.
func plain(dir string) func(context.Context) (*mounted, error) {
	return func(context.Context) (*mounted, error) { return &mounted{dir: dir}, nil }
}

// finding compares find over the tree of many files.
func (b *bench) finding(what string, args ...string) contest {
	find := func(ctx context.Context, dir string) (int64, error) {
		_, err := b.command(ctx, append([]string{"find", dir}, args...)...)
		return 0, err
	}
	sealed := func(ctx context.Context) (*mounted, error) {
		m, err := b.mountSealed(ctx, b.data.sealedWide)
		if m != nil {
			m.note = func(mb float64) { b.memory[memoryWide] = append(b.memory[memoryWide], mb) }
		}
		return m, err
	}
	cipher := func(ctx context.Context) (*mounted, error) { return b.mountGocryptfs(ctx, b.data.cipherWide, true) }
	return contest{what: what, ours: contender{run: cold(sealed, nil, find, 0)}, rest: []contender{
		{"gocryptfs", 3, cold(cipher, nil, find, 0)},
		{"plain tmpfs", 0, cold(plain(b.data.wide), nil, find, 0)},
	}}
}

// files reads whole files, several at a time, 1 MiB a call.
func files(names []string, readers int) task {
	return func(_ context.Context, dir string) (int64, error) {
		var next, total atomic.Int64
		err := together(readers, func() error {
			buf := make([]byte, 1<<20)
			for i := next.Add(1) - 1; i < int64(len(names)); i = next.Add(1) - 1 {
				n, err := readFile(filepath.Join(dir, names[i]), buf)
				if total.Add(n); err != nil {
					return err
				}
			}
			return nil
		})
		return total.Load(), err
	}
}

// readFile reads by plain system calls: Go's own files would be polled, which
// is a message to a FUSE server for each.
func readFile(path string, buf []byte) (total int64, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return total, err
		}
		total += int64(n)
	}
}

// together runs f in n threads that can all be in the kernel at once.
func together(n int, f func() error) error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(runtime.NumCPU(), n+1)))
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// randomReads reads blocks at places that are the same in every run.
func randomReads(names []string, reads, depth int) task {
	return func(_ context.Context, dir string) (int64, error) {
		return randomAt(dir, names, reads, depth, 0)
	}
}

// randomAt opens with the flags given besides, such as O_DIRECT.
func randomAt(dir string, names []string, reads, depth, flags int) (int64, error) {
	fds := make([]int, len(names))
	var size int64
	for i, n := range names {
		fd, err := unix.Open(filepath.Join(dir, n), unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return 0, err
		}
		fds[i], size = fd, st.Size
	}
	rng := rand.New(rand.NewPCG(1, 2))
	type place struct {
		fd  int
		off int64
	}
	places := make([]place, reads)
	for i := range places {
		places[i] = place{fds[rng.IntN(len(fds))], rng.Int64N(size/4096) * 4096}
	}
	var next, total atomic.Int64
	err := together(depth, func() error {
		buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned, for O_DIRECT
		if err != nil {
			return err
		}
		defer unix.Munmap(buf)
		for i := next.Add(1) - 1; i < int64(reads); i = next.Add(1) - 1 {
			n, err := unix.Pread(places[i].fd, buf, places[i].off)
			if err == nil && n != len(buf) {
				err = io.ErrUnexpectedEOF
			}
			if total.Add(int64(n)); err != nil {
				return err
			}
		}
		return nil
	})
	return total.Load(), err
}
