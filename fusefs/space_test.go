package fusefs

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSpaceRunsCommandsOnGocryptfs(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	cipher := mountOutput(t, s, "out")
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	got, exit := shell(t, s, "out", `echo hello > "$1"/file && cat "$1"/file; exit 3`, s.Path("out"))
	if got != "hello" || exit != (Exit{Code: 3}) {
		t.Fatalf("output %q, %+v", got, exit)
	}
	seen, err := os.ReadFile(filepath.Join(s.Outside("out"), "file"))
	if err != nil || string(seen) != "hello\n" {
		t.Fatalf("from outside: %q, %v", seen, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(cipher)
	if err != nil || len(names) != 3 { // diriv, file, captured output
		t.Fatalf("cipher directory: %v, %v", names, err)
	}
}
