package fusefs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

// Some tests need the server in another process than its readers: page faults
// that wait for a server in their own process stop the whole Go runtime, a
// server that dies must not take the test with it, and its memory is to be
// measured. servedMain is that process; it serves a madeTree.

const envServed = "SEALBATCH_TEST_SERVED"

// served is such a server.
type served struct {
	t    testing.TB
	dir  string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	dead bool
}

// serveMade starts one; the test's end stops it.
func serveMade(t testing.TB) *served {
	t.Helper()
	s := &served{t: t, dir: t.TempDir(), cmd: exec.Command("/proc/self/exe")}
	s.cmd.Env = append(os.Environ(), envServed+"="+s.dir)
	s.cmd.Stderr = t.Output()
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.in.Close()
		if err := s.cmd.Wait(); err != nil && !s.dead {
			t.Errorf("the server: %v", err)
		}
	})
	s.answer("ready")
	return s
}

func (s *served) path(name string) string { return s.dir + "/" + name }

// answer waits for a line that begins with word.
func (s *served) answer(word string) string {
	s.t.Helper()
	if !s.out.Scan() || !strings.HasPrefix(s.out.Text(), word) {
		s.t.Fatalf("the server says %q, not %s", s.out.Text(), word)
	}
	return s.out.Text()
}

// ask sends a command and returns its answer.
func (s *served) ask(word string) string {
	s.t.Helper()
	if _, err := io.WriteString(s.in, word+"\n"); err != nil {
		s.t.Fatal(err)
	}
	return s.answer(word)
}

// servedMain serves until standard input ends.
func servedMain(dir string) error {
	tree := newMadeTree()
	s, err := Mount(dir, tree, MountOptions{})
	if err != nil {
		return err
	}
	defer tree.release() // lest unmounting hangs
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch word := lines.Text(); word {
		case "stuck": // waits until a reader of "stuck" is stuck
			<-tree.waiting
			fmt.Println(word)
		case "release":
			tree.release()
			fmt.Println(word)
		case "usage":
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			threads, err := os.ReadDir("/proc/self/task")
			if err != nil {
				return err
			}
			fmt.Println(word, m.HeapSys>>20, len(threads))
		default:
			return fmt.Errorf("no command %q", word)
		}
	}
	tree.release()
	return s.Unmount()
}

// madeTree has files without memory or storage behind them: byte i is a function
// of i.
type madeTree struct {
	names   []string // node n is names[n-1]
	waiting chan struct{}
	going   chan struct{}
	once    sync.Once
}

// The files of a madeTree.
const (
	hugeSize  = 6<<30 + 4321 // "huge": offsets beyond 32 bits
	smallSize = 3<<20 + 77   // all others
	badFrom   = 1 << 20      // from here on, "bad" cannot be read
)

func newMadeTree() *madeTree {
	return &madeTree{
		names:   []string{"bad", "huge", "short", "slow", "stuck"},
		waiting: make(chan struct{}, 1000), going: make(chan struct{}),
	}
}

func (m *madeTree) release() { m.once.Do(func() { close(m.going) }) }
func (m *madeTree) Len() int { return len(m.names) + 1 }

func (m *madeTree) Attr(node uint32) volume.Attr {
	a := volume.Attr{Type: volume.File, Mode: 0o644, Nlink: 1, Mtime: time.Unix(1, 0), Size: smallSize}
	switch {
	case node == 0:
		a.Type, a.Mode, a.Nlink, a.Size = volume.Dir, 0o755, 2, 0
	case m.names[node-1] == "huge":
		a.Size = hugeSize
	}
	return a
}

func (m *madeTree) Readlink(uint32) string { return "" }

func (m *madeTree) Dirents(uint32) []volume.Dirent {
	var all []volume.Dirent
	for i, name := range m.names {
		all = append(all, volume.Dirent{Name: name, Node: uint32(i) + 1, Type: volume.File})
	}
	return all
}

func (m *madeTree) Lookup(_ uint32, name string) (uint32, bool) {
	i := slices.Index(m.names, name)
	return uint32(i + 1), i >= 0
}

func (m *madeTree) ReadAt(node uint32, p []byte, off int64) (int, error) {
	size := m.Attr(node).Size
	switch name := m.names[node-1]; {
	case name == "bad" && off+int64(len(p)) > badFrom:
		return 0, volume.ErrBlock
	case name == "slow":
		time.Sleep(20 * time.Millisecond)
	case name == "stuck":
		m.waiting <- struct{}{}
		<-m.going
	}
	n := int(min(int64(len(p)), max(0, size-off)))
	made(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// pattern is what madeTree's files are cut from.
var pattern = sync.OnceValue(func() []byte {
	p := make([]byte, 1<<20+4096)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
})

// madeAt is what madeTree's files have from off to the end of its 4 KiB, which
// are cut from the pattern at a place of their own.
func madeAt(off int64) []byte {
	return pattern()[(off>>12*7919)&(1<<20-1):][off&4095 : 4096]
}

// made fills p with what madeTree's files have at off.
func made(p []byte, off int64) {
	for len(p) > 0 {
		n := copy(p, madeAt(off))
		p, off = p[n:], off+int64(n)
	}
}

// isMade reports an error unless p is what is at off.
func isMade(p []byte, off int64) error {
	for len(p) > 0 {
		want := madeAt(off)
		n := min(len(want), len(p))
		if !bytes.Equal(p[:n], want[:n]) {
			return fmt.Errorf("wrong bytes at %d", off)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// readMade reads n bytes at off by pread and checks them.
func readMade(fd int, p []byte, off, size int64) error {
	want := int(min(int64(len(p)), max(0, size-off)))
	for done := 0; done < want; {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("the file ends early")
		}
		done += n
	}
	return isMade(p[:want], off)
}

func openFile(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// aligned is a buffer as O_DIRECT wants it.
func aligned(t testing.TB, size int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(b) })
	return b
}

// store is a sealed file that can be spoiled while it is mounted, between reads.
type store struct {
	mu          sync.Mutex
	data        []byte
	size        int
	flip, short bool
	err         error
}

func (s *store) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	n, err := bytes.NewReader(s.data[:s.size]).ReadAt(p, off)
	if s.flip {
		p[n/2] ^= 1
	}
	if s.short {
		return n / 2, io.ErrUnexpectedEOF
	}
	return n, err
}

// sealedOn seals dir into a store and opens it.
func sealedOn(t *testing.T, dir string) (*store, *volume.Reader) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	sealing, err := volume.Seal(t.Context(), &b, source.Dir(dir), volume.SealOptions{Recipients: []age.Recipient{id.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	s := &store{data: b.Bytes(), size: b.Len()}
	v, err := volume.Open(s, int64(s.size), sealing.Key)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}
