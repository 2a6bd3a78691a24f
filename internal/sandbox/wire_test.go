package sandbox

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func wirePair(t *testing.T) (a, b *wire) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*wire
	for i, fd := range pair {
		if ends[i], err = newWire(os.NewFile(uintptr(fd), "end")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].conn.Close() })
	}
	return ends[0], ends[1]
}

func TestWireCarriesMessagesAndDescriptors(t *testing.T) {
	t.Parallel()
	a, b := wirePair(t)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	want := []request{
		{ID: 1, Op: opStart, Cmd: Cmd{Argv: []string{"\xff\x00", ""}, Env: []string{"A=b"}}},
		{ID: 2, Op: opWriteFile, Data: []byte(strings.Repeat("x", 1<<20))},
		{},
	}
	go func() {
		for i, r := range want {
			fd := -1
			if i == 1 {
				fd = int(file.Fd())
			}
			if err := a.send(r, fd); err != nil {
				t.Error(err)
			}
		}
		a.conn.Close()
	}()
	for i := range want {
		var got request
		passed, err := b.recv(&got)
		if err != nil || !reflect.DeepEqual(got, want[i]) || (passed != nil) != (i == 1) {
			t.Fatalf("message %d: descriptor %v, %v", i, passed, err)
		}
		if passed != nil {
			sameFile(t, passed, file)
			passed.Close()
		}
	}
	if _, err := b.recv(&request{}); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func sameFile(t *testing.T, a, b *os.File) {
	t.Helper()
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	if err1 != nil || err2 != nil || !os.SameFile(x, y) {
		t.Errorf("another file came through: %v, %v", err1, err2)
	}
}

func TestWireBoundsMessages(t *testing.T) {
	t.Parallel()
	a, b := wirePair(t)
	if err := a.send(request{Data: make([]byte, maxFrame)}, -1); err == nil {
		t.Error("a message larger than a frame was sent")
	}
	if _, err := a.conn.Write(binary.BigEndian.AppendUint32(nil, maxFrame+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.recv(&request{}); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a frame that is too large: %v", err)
	}
}

func FuzzWire(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 7})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := wirePair(t)
		if len(data) > 1<<16 { // what the socket holds without a reader
			data = data[:1<<16]
		}
		if _, err := a.conn.Write(data); err != nil {
			t.Fatal(err)
		}
		a.conn.Close()
		for { // every message is accepted or refused, and the end is found
			file, err := b.recv(&reply{})
			if file != nil {
				t.Fatal("a descriptor out of nothing")
			}
			if err != nil {
				return
			}
		}
	})
}
