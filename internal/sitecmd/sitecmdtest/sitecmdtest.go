// Package sitecmdtest makes commands that stand in for a site's.
package sitecmdtest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Script writes an executable shell script and returns its path.
func Script(t testing.TB, body string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "command")
	// A process that another test forks meanwhile must not hold it open for writing.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}
