package ui

import (
	"fmt"
	"io"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// PrintError writes "error: ..." and, where one is known, "hint: ...". Control characters, which
// may come from file names or from the other side of a connection, are shown escaped.
func PrintError(w io.Writer, err error) {
	if err == nil {
		return
	}
	fmt.Fprintf(w, "error: %s\n", text.Printable(err.Error()))
	if h := fault.Hint(err); h != "" {
		fmt.Fprintf(w, "hint: %s\n", text.Printable(h))
	}
}
