package audit

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var numberRE = regexp.MustCompile(`-([0-9]{6,18})$`)

// Segments returns the files of the log at path that are there, oldest first; the
// last is path itself. Those that were moved away are not among them.
func Segments(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	var numbers []int
	for _, e := range entries {
		m := numberRE.FindStringSubmatch(strings.TrimSuffix(e.Name(), filepath.Ext(path)))
		if m == nil {
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err == nil && filepath.Base(archived(path, n)) == e.Name() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var out []string
	for _, n := range numbers {
		out = append(out, archived(path, n))
	}
	return append(out, path), nil
}

// Walk calls fn for the entries of the log at path whose line contains match (all
// of them, if that is empty), in order, over all segments that are there, and
// stops at fn's first error. It checks the signatures of those entries, not the
// chain. The service may append meanwhile; what its store does not have yet is
// left out.
func Walk(path string, pub ed25519.PublicKey, match []byte, fn func(Event) error) error {
	current, err := os.Open(path) // first, since it may be closed meanwhile
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	defer current.Close()
	segments, err := Segments(path)
	if err != nil {
		return err
	}
	w := &walker{pub: pub, match: match, fn: fn}
	for _, name := range segments[:len(segments)-1] {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		err = errors.Join(w.segment(f), f.Close())
		if err != nil {
			return fmt.Errorf("audit log %s: %w", name, err)
		}
	}
	return w.segment(current)
}

type walker struct {
	pub   ed25519.PublicKey
	match []byte
	fn    func(Event) error
	last  uint64  // entry that was seen last
	batch []Event // of one that is not seen to its end
}

func (w *walker) segment(r io.Reader) error {
	lines := bufio.NewReaderSize(r, maxLine+1)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			w.batch = nil
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.line(line[:len(line)-1]); err != nil {
			return err
		}
	}
}

// more is in no other place of an entry: in a string, quotes are escaped.
var more = []byte(`"more":true`)

func (w *walker) line(line []byte) error {
	if len(w.match) == 0 || bytes.Contains(line, w.match) {
		l, e, err := decodeLine(line)
		if err == nil {
			err = checkSignature(w.pub, l)
		}
		if err != nil {
			return fmt.Errorf("%w: the line after entry %d: %w", ErrBroken, w.last, err)
		}
		w.batch = append(w.batch, e)
	}
	if bytes.Contains(line, more) {
		return nil
	}
	for _, e := range w.batch {
		if e.Seq <= w.last {
			continue
		}
		w.last = e.Seq
		if err := w.fn(e); err != nil {
			return err
		}
	}
	w.batch = nil
	return nil
}
