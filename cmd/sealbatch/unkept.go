package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/volume"
)

// unkept gathers what a file system did not keep of what was written to it.
type unkept struct {
	mu               sync.Mutex
	missing, altered []string // as they are printed, maxUnkept of each
	lost, other      int      // how many there are
}

// maxUnkept is how many of each are named.
const maxUnkept = 20

// options returns opt with u told of what is not kept.
func (u *unkept) options(opt volume.ExtractOptions) volume.ExtractOptions {
	opt.Missing = func(path string, err error) { u.add(&u.missing, &u.lost, path, err) }
	opt.Altered = func(path string, err error) { u.add(&u.altered, &u.other, path, err) }
	return opt
}

func (u *unkept) add(list *[]string, n *int, path string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if *n++; *n <= maxUnkept {
		*list = append(*list, fmt.Sprintf("%s: %v", path, err))
	}
}

// report writes what was not kept, each line behind prefix. The error says that something
// is missing; attributes that differ are no error.
func (u *unkept) report(w io.Writer, prefix string) error {
	for _, part := range []struct {
		word  string
		lines []string
		n     int
	}{{"differs from what was sealed", u.altered, u.other}, {"missing", u.missing, u.lost}} {
		for _, line := range part.lines {
			fmt.Fprintf(w, "%s%s: %s\n", prefix, part.word, text.Printable(line))
		}
		if more := part.n - len(part.lines); more > 0 {
			fmt.Fprintf(w, "%s%s: %d more\n", prefix, part.word, more)
		}
	}
	if u.lost == 0 {
		return nil
	}
	return fault.New(fault.Incomplete, fmt.Errorf("%d names could not be written on this file system; all others are there", u.lost),
		"open it on another file system")
}
