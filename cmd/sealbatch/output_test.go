package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestClosedOutput starts the program without standard output, as the Makefile links it: its answer is lost, and it says so.
// With output that is thrown away on purpose, in all the ways in which that is done, nothing is wrong.
func TestClosedOutput(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil || !bytes.Contains(makefile, []byte("-E main.start")) {
		t.Fatalf("the Makefile links the program without -E main.start, %v", err)
	}
	program := filepath.Join(t.TempDir(), "sealbatch")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -E main.start", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	run(t, build)
	for redirection, code := range map[string]int{
		">&-": 1, "<&- >&-": 1, ">/dev/null": 0, "1<>/dev/null": 0, "<&-": 0, "<&- 2>&-": 0, "<>/dev/null >&0 2>&0": 0,
	} {
		cmd := exec.Command("sh", "-c", `"$0" version `+redirection, program)
		out, err := cmd.CombinedOutput()
		var ended *exec.ExitError
		if got := 0; errors.As(err, &ended) && ended.ExitCode() != code || err == nil && got != code {
			t.Errorf("%s: %v, want code %d\n%s", redirection, err, code, out)
		}
		if code == 1 && !strings.Contains(string(out), "could not be written to standard output: it is closed\nhint: ") {
			t.Errorf("%s says %q", redirection, out)
		}
	}
}

// TestReaderGone: a reader that went away ends the program as it ends any other, by SIGPIPE.
func TestReaderGone(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	var stderr bytes.Buffer
	cmd := exec.Command("sealbatch", "version")
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := cmd.Run(); err == nil || err.Error() != "signal: broken pipe" || stderr.Len() > 0 {
		t.Errorf("it ended with %v, and said %q", err, &stderr)
	}
}
