package fusefs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mapped maps length bytes of a file from off on.
func mapped(t *testing.T, fd int, off int64, length, prot, flags int) []byte {
	t.Helper()
	b, err := unix.Mmap(fd, off, length, prot, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestMmap(t *testing.T) {
	t.Parallel()
	s := serveMade(t)
	huge := openFile(t, s.path("huge"), unix.O_RDONLY)
	const far = 5 << 30
	for _, at := range []int64{0, far} {
		if err := isMade(mapped(t, huge, at, 1<<20, unix.PROT_READ, unix.MAP_SHARED), at); err != nil {
			t.Error("shared:", err)
		}
	}
	// One's own copy can be written to; nobody else sees it.
	b := mapped(t, huge, far, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	copy(b, "mine")
	if string(b[:4]) != "mine" || isMade(b[8:], far+8) != nil {
		t.Error("private: not what was written")
	}
	if err := readMade(huge, make([]byte, 4096), far, hugeSize); err != nil {
		t.Error("after writing to a private mapping:", err)
	}
	// What is beyond the end, in the last page, reads as zeros.
	last := int64(hugeSize) &^ 4095
	b = mapped(t, huge, last, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err := isMade(b[:hugeSize-last], last); err != nil || strings.Trim(string(b[hugeSize-last:]), "\x00") != "" {
		t.Error("the last page:", err)
	}
	if _, err := unix.Mmap(huge, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EACCES) {
		t.Errorf("a shared mapping to write to: %v", err)
	}
	mapped(t, huge, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
}

// TestMmapOfUnreadableBlocks: a page that cannot be read is SIGBUS, never zeros,
// and the pages before it are good.
func TestMmapOfUnreadableBlocks(t *testing.T) {
	t.Parallel()
	s := serveMade(t)
	b := mapped(t, openFile(t, s.path("bad"), unix.O_RDONLY), 0, smallSize, unix.PROT_READ, unix.MAP_SHARED)
	touch := func(i int) (fault any) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() { fault = recover() }()
		runtime.KeepAlive(b[i])
		if b[i] == 0xff { // a read that is not optimized away
			return "read"
		}
		return nil
	}
	for _, i := range []int{badFrom, smallSize - 1, badFrom + 4096} {
		if fault := touch(i); fault == nil {
			t.Errorf("byte %d was read", i)
		}
	}
	if err := isMade(b[:badFrom-4096], 0); err != nil {
		t.Error("before the bad block:", err)
	}
}

func TestDirectReads(t *testing.T) {
	t.Parallel()
	s := serveMade(t)
	for name, size := range map[string]int64{"huge": hugeSize, "short": smallSize} {
		fd := openFile(t, s.path(name), unix.O_RDONLY|unix.O_DIRECT)
		buf := aligned(t, 2<<20)
		for range 50 {
			off := rand.Int64N(size)
			n := 1 + rand.IntN(len(buf)-512)
			at := rand.IntN(512) // of the buffer: FUSE asks for no alignment
			if err := readMade(fd, buf[at:at+n], off, size); err != nil {
				t.Fatalf("%s: %d bytes at %d: %v", name, n, off, err)
			}
		}
		for _, off := range []int64{size, size + 1, size + 1<<40} {
			if n, err := unix.Pread(fd, buf, off); n != 0 || err != nil {
				t.Errorf("%s: at %d of %d: %d bytes, %v", name, off, size, n, err)
			}
		}
	}
	fd := openFile(t, s.path("bad"), unix.O_RDONLY|unix.O_DIRECT)
	if n, err := unix.Pread(fd, make([]byte, 4096), badFrom); !errors.Is(err, unix.EIO) {
		t.Errorf("an unreadable block: %d bytes, %v", n, err)
	}
	if err := readMade(fd, make([]byte, 4096), badFrom-4096, smallSize); err != nil {
		t.Error("before it:", err)
	}
}

// TestThousandReaders: each at its own place, by way of the page cache and not,
// while others list the directory. The server's memory and threads are bounded.
func TestThousandReaders(t *testing.T) {
	t.Parallel()
	s := serveMade(t)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 1000 {
		flags := []int{unix.O_RDONLY, unix.O_RDONLY | unix.O_DIRECT}[i%2]
		fd := openFile(t, s.path("huge"), flags)
		wg.Go(func() {
			<-start
			if err := readMade(fd, make([]byte, 1<<17), int64(i)<<22, hugeSize); err != nil {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	for range 20 {
		wg.Go(func() {
			<-start
			for range 20 {
				names, err := filepath.Glob(s.path("*"))
				if err != nil || len(names) != 5 {
					t.Errorf("%v, %v", names, err)
				}
			}
		})
	}
	close(start)
	wg.Wait()
	var heap, threads int
	if _, err := fmt.Sscanf(s.ask("usage"), "usage %d %d", &heap, &threads); err != nil {
		t.Fatal(err)
	}
	t.Logf("heap %d MiB, %d threads", heap, threads)
	if heap > 250 || threads > 150 {
		t.Errorf("the server uses %d MiB and %d threads", heap, threads)
	}
}

// TestSignalsInReads: a signal that does not kill is no error of a read: most
// programs take none for files.
func TestSignalsInReads(t *testing.T) {
	// Not parallel: it sends signals to its own threads.
	s := serveMade(t)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR2)
	defer signal.Stop(signals)
	for name, flags := range map[string]int{"cached": unix.O_RDONLY, "direct": unix.O_RDONLY | unix.O_DIRECT} {
		fd := openFile(t, s.path("slow"), flags)
		tid := make(chan int)
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			tid <- unix.Gettid()
			done <- readMade(fd, make([]byte, smallSize), 0, smallSize)
		}()
		thread, sent := <-tid, 0
		for running := true; running; {
			select {
			case err := <-done:
				if running = false; err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case <-time.After(time.Millisecond):
				if unix.Tgkill(os.Getpid(), thread, unix.SIGUSR2) == nil {
					sent++
				}
			}
		}
		if sent == 0 {
			t.Errorf("%s: no signal came in time", name)
		}
	}
}

// reader starts a process that reads a whole file.
func reader(t *testing.T, path string, args ...string) (kill func() error, ended chan error) {
	t.Helper()
	p, err := os.StartProcess("/usr/bin/dd", append([]string{"dd", "if=" + path, "of=/dev/null", "bs=1M", "status=none"}, args...),
		&os.ProcAttr{Files: []*os.File{nil, nil, os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	go func() {
		st, err := p.Wait()
		if err == nil && !st.Success() {
			err = errors.New(st.String())
		}
		ended <- err
	}()
	return p.Kill, ended
}

const long = 20 * time.Second

func waitFor(t *testing.T, what string, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(long):
		t.Fatalf("%s does not end", what)
		return nil
	}
}

// TestKilledReader: a reader that waits for slow storage can be killed, and the
// server answers others meanwhile.
func TestKilledReader(t *testing.T) {
	t.Parallel()
	s := serveMade(t)
	kill, ended := reader(t, s.path("stuck"))
	s.ask("stuck")
	if err := kill(); err != nil {
		t.Fatal(err)
	}
	if err := waitFor(t, "a killed reader", ended); err == nil {
		t.Error("it read everything")
	}
	if err := readMade(openFile(t, s.path("short"), unix.O_RDONLY), make([]byte, smallSize), 0, smallSize); err != nil {
		t.Error("another file:", err)
	}
	// One that goes past the page cache waits for the answer, and no longer.
	kill, ended = reader(t, s.path("stuck"), "iflag=direct")
	s.ask("stuck")
	if err := kill(); err != nil {
		t.Fatal(err)
	}
	s.ask("release")
	if err := waitFor(t, "a killed reader", ended); err == nil {
		t.Error("it read everything")
	}
	if err := readMade(openFile(t, s.path("stuck"), unix.O_RDONLY), make([]byte, smallSize), 0, smallSize); err != nil {
		t.Error("the same file later:", err)
	}
}

// TestServerDeathEndsReads: readers get an error, those that wait and those that
// come later.
func TestServerDeathEndsReads(t *testing.T) {
	t.Parallel()
	s := serveMade(t)
	open := openFile(t, s.path("short"), unix.O_RDONLY)
	_, cached := reader(t, s.path("stuck"))
	s.ask("stuck")
	_, direct := reader(t, s.path("stuck"), "iflag=direct")
	s.ask("stuck")
	s.dead = true
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, ended := range []chan error{cached, direct} {
		if err := waitFor(t, "a reader without a server", ended); err == nil {
			t.Error("everything was read")
		}
	}
	if _, err := unix.Pread(open, make([]byte, 10), 1<<20); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("an open file: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(s.path("huge"), &st); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("stat: %v", err)
	}
	detach(t, s.dir)
}

// detach unmounts lazily, as root or as the user who mounted.
func detach(t *testing.T, dir string) {
	t.Helper()
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if os.Geteuid() != 0 {
		err = runQuietly("fusermount3", "-u", "-z", dir)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func runQuietly(argv ...string) error {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
