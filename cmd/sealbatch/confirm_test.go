package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// TestConfirmIsPrintable: what others chose cannot rewrite a question on the terminal.
func TestConfirmIsPrintable(t *testing.T) {
	t.Parallel()
	none, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	var out bytes.Buffer
	a := &app{stdin: none, stderr: &out}
	err = a.confirm(t.Context(), false, "/x\u009b2K\u009b1A\x1b]0;t\x07\u202eabc\rd describes\n  your volume\n", "--yes")
	if fault.ClassOf(err) != fault.Usage || fault.Hint(err) != "--yes" {
		t.Errorf("without a terminal: %v", err)
	}
	if want := `/x\u009b2K\u009b1A\u001b]0;t\u0007\u202eabc\u000dd describes` + "\n  your volume\n"; out.String() != want {
		t.Errorf("asked %q, want %q", out.String(), want)
	}
}
