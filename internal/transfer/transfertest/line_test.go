package transfertest

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// TestLine sends a byte there and back.
func TestLine(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	const late = 50 * time.Millisecond
	r, err := Start(t.Context(), l.Addr().String(), late)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	if _, err := c.Write([]byte("there and back")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 14)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "there and back" {
		t.Errorf("%q, %v", got, err)
	}
	if took := time.Since(begin); took < 2*late {
		t.Errorf("it took %v, less than twice %v", took, late)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
