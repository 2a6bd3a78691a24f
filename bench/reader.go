package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readCommand runs this program as a reader: a process of its own that does
// nothing but system calls, as a program in C would. Go's runtime, which lends
// the processor to others during a call, would be measured as well.
const readCommand = "read"

// plan is what a reader reads.
type plan struct {
	Names   []string // in its directory
	Walk    bool     // they are directories: each is listed, and then its files are read, as tar does
	Threads int
	Blocks  int // this many of 4 KiB, at places that are the same in every run; 0 means whole files, 1 MiB a call
	Flags   int // of open(2), besides
}

// haul is what it has read, and how long that took from its first call on.
type haul struct {
	Bytes int64
	Took  time.Duration
}

// read has a new reader do p in the directory dir.
func (p plan) read(ctx context.Context, dir string) (haul, error) {
	self, err := os.Executable()
	if err != nil {
		return haul{}, err
	}
	cmd := exec.CommandContext(ctx, self, readCommand)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "GOGC=off", "GODEBUG=asyncpreemptoff=1", fmt.Sprintf("GOMAXPROCS=%d", p.Threads+1))
	in, err := cmd.StdinPipe()
	if err != nil {
		return haul{}, err
	}
	go func() { _ = json.NewEncoder(in).Encode(p); _ = in.Close() }()
	out, err := cmd.Output()
	if err != nil {
		return haul{}, fmt.Errorf("read in %s: %w", dir, err)
	}
	var h haul
	return h, json.Unmarshal(out, &h)
}

// serveRead is the reader.
func serveRead(in io.Reader, out io.Writer) error {
	var p plan
	if err := json.NewDecoder(in).Decode(&p); err != nil {
		return err
	}
	names := make([]*byte, len(p.Names))
	for i, name := range p.Names {
		var err error
		if names[i], err = unix.BytePtrFromString(name); err != nil {
			return err
		}
	}
	next := p.files(names)
	switch {
	case p.Walk:
		next = p.walk()
	case p.Blocks > 0:
		var err error
		if next, err = p.blocks(names); err != nil {
			return err
		}
	}
	h, err := p.inThreads(next)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(h)
}

const (
	page = 4096
	// mallocOffset is where malloc(3) puts a large buffer in its pages.
	mallocOffset = 16
)

// inThreads calls next in all threads until it says that there is no more.
func (p plan) inThreads(next func(buf []byte) (n int, more bool, errno unix.Errno)) (haul, error) {
	var total atomic.Int64
	errs := make([]unix.Errno, p.Threads)
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	for i := range p.Threads {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			buf, err := unix.Mmap(-1, 0, 1<<20+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
			if err != nil {
				errs[i] = unix.ENOMEM
			}
			if p.Flags&unix.O_DIRECT == 0 {
				buf = buf[mallocOffset:]
			}
			ready.Done()
			<-start
			for more := err == nil; more; {
				var n int
				n, more, errs[i] = next(buf)
				total.Add(int64(n))
			}
		})
	}
	ready.Wait()
	begin := time.Now()
	close(start)
	done.Wait()
	h := haul{total.Load(), time.Since(begin)}
	for _, errno := range errs {
		if errno != 0 {
			return h, errno
		}
	}
	return h, nil
}

// files reads one whole file.
func (p plan) files(names []*byte) func([]byte) (int, bool, unix.Errno) {
	var next atomic.Int64
	return func(buf []byte) (total int, more bool, errno unix.Errno) {
		i := next.Add(1) - 1
		if i >= int64(len(names)) {
			return 0, false, 0
		}
		total, errno = readFile(cwd, names[i], p.Flags, buf)
		return total, errno == 0, errno
	}
}

// walk reads one whole file, after listing its directory if it is the first there. It serves one thread.
func (p plan) walk() func([]byte) (int, bool, unix.Errno) {
	dir, left := -1, []string(nil)
	return func(buf []byte) (int, bool, unix.Errno) {
		for len(left) == 0 {
			if len(p.Names) == 0 {
				return 0, false, 0
			}
			if dir >= 0 {
				_ = unix.Close(dir)
			}
			var errno unix.Errno
			if dir, left, errno = list(p.Names[0], buf); errno != 0 {
				return 0, false, errno
			}
			p.Names = p.Names[1:]
		}
		name, err := unix.BytePtrFromString(left[0])
		if err != nil {
			return 0, false, unix.EINVAL
		}
		left = left[1:]
		n, errno := readFile(uintptr(dir), name, p.Flags, buf)
		return n, errno == 0, errno
	}
}

// list opens a directory and gives its names, in the order in which they come.
func list(path string, buf []byte) (fd int, names []string, _ unix.Errno) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for err == nil {
		var n int
		if n, err = unix.Getdents(fd, buf[:32<<10]); n <= 0 { // as much as glibc asks for
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	var errno unix.Errno
	errors.As(err, &errno)
	return fd, names, errno
}

func readFile(dir uintptr, name *byte, flags int, buf []byte) (total int, errno unix.Errno) {
	fd, errno := open(dir, name, flags)
	for errno == 0 {
		n, _, e := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&buf[0])), 1<<20)
		if e != 0 || n == 0 {
			errno = e
			break
		}
		total += int(n)
	}
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	return total, errno
}

// blocks reads one block of 4 KiB somewhere.
func (p plan) blocks(names []*byte) (func([]byte) (int, bool, unix.Errno), error) {
	type place struct{ fd, off uintptr }
	var fds []uintptr
	var st unix.Stat_t
	for _, name := range names {
		fd, errno := open(cwd, name, p.Flags)
		if errno != 0 {
			return nil, errno
		}
		if err := unix.Fstat(int(fd), &st); err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	places := make([]place, p.Blocks)
	for i := range places {
		places[i] = place{fds[rng.IntN(len(fds))], uintptr(rng.Int64N(st.Size/4096) * 4096)}
	}
	var next atomic.Int64
	return func(buf []byte) (int, bool, unix.Errno) {
		i := next.Add(1) - 1
		if i >= int64(len(places)) {
			return 0, false, 0
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, places[i].fd, uintptr(unsafe.Pointer(&buf[0])), 4096, places[i].off, 0, 0)
		if errno == 0 && n != 4096 {
			errno = unix.EIO
		}
		return int(n), errno == 0, errno
	}, nil
}

// cwd is AT_FDCWD, which is -100.
const cwd = ^uintptr(99)

func open(dir uintptr, name *byte, flags int) (uintptr, unix.Errno) {
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, dir, uintptr(unsafe.Pointer(name)), uintptr(unix.O_RDONLY|unix.O_CLOEXEC|flags), 0, 0, 0)
	return fd, errno
}
