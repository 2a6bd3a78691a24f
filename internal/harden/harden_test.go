package harden

import (
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProcess hardens the process of this package's tests, which has no others.
func TestProcess(t *testing.T) {
	if IsUndumpable() {
		t.Fatal("it is undumpable from the start")
	}
	if err := Process(); err != nil {
		t.Fatal(err)
	}
	if !IsUndumpable() {
		t.Error("it can be dumped")
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit != (unix.Rlimit{}) {
		t.Errorf("core files of %+v bytes, %v", limit, err)
	}
	// The kernel gives the files of an undumpable process to root.
	st, err := os.Stat("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	if uid := st.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("its memory belongs to user %d: it can be traced", uid)
	}
}
