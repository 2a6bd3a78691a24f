package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	"filippo.io/age"
)

// memSource is a tree given entry by entry; file contents by node number.
type memSource struct {
	entries []Entry
	content map[string]string
}

func (m memSource) Walk(_ context.Context, emit func(Entry) (uint32, error)) error {
	for _, e := range m.entries {
		if e.Attr.Type == File && !e.IsLink {
			text := m.content[e.Name]
			e.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader([]byte(text))), nil }
		}
		if _, err := emit(e); err != nil {
			return err
		}
	}
	return nil
}

var fixedTime = time.Unix(1_700_000_000, 123_456_789)

func memDir(parent uint32, name string) Entry {
	return Entry{Parent: parent, Name: name, Attr: Attr{Type: Dir, Mode: 0o755, Mtime: fixedTime}}
}

func (m *memSource) file(parent uint32, name, text string, nlink uint32) {
	if m.content == nil {
		m.content = map[string]string{}
	}
	m.content[name] = text
	m.entries = append(m.entries, Entry{
		Parent: parent, Name: name,
		Attr: Attr{Type: File, Mode: 0o644, Mtime: fixedTime, Size: int64(len(text)), Nlink: nlink},
	})
}

// smallTree returns a little of everything.
func smallTree() memSource {
	m := memSource{entries: []Entry{memDir(0, "")}}
	m.file(0, "a", "one byte short of nothing", 2)
	m.file(0, "b", "", 1)
	m.entries = append(m.entries, memDir(0, "dir")) // node 3
	m.file(3, "twin-1", string(bytes.Repeat([]byte("1"), 4097)), 1)
	m.file(3, "twin-2", string(bytes.Repeat([]byte("2"), 4097)), 1)
	m.entries = append(m.entries,
		Entry{Parent: 3, Name: "link", Attr: Attr{Type: Symlink, Mode: 0o777, Mtime: fixedTime}, Target: "../a"},
		Entry{Parent: 3, Name: "hard", IsLink: true, Link: 1},
		Entry{Parent: 3, Name: string(bytes.Repeat([]byte("long"), 50)), Attr: Attr{Type: Dir, Mode: 0o1700, Mtime: fixedTime}})
	return m
}

// fixedWrap stands in for age, whose output differs each time.
func fixedWrap(w io.Writer, id ID, _ Key, _ ...age.Recipient) error {
	_, err := fmt.Fprintf(w, "the key of %s\n", id)
	return err
}

// sealFixed seals with reproducible randomness.
func sealFixed(t testing.TB, src Source, seed byte) (Sealed, []byte) {
	t.Helper()
	var out bytes.Buffer
	s, err := sealer{random: rand.NewChaCha8([32]byte{seed}), wrap: fixedWrap}.seal(context.Background(), &out, src, SealOptions{})
	must(t, err)
	return s, out.Bytes()
}

// dump returns everything that can be read from a volume, as text.
func dump(r *Reader) (string, error) {
	var out bytes.Buffer
	err := r.Walk(context.Background(), func() func(Entry) (uint32, error) {
		var next uint32
		return func(e Entry) (uint32, error) {
			node := next
			if e.IsLink {
				node = e.Link
			} else {
				next++
			}
			a := e.Attr
			fmt.Fprintf(&out, "%d in %d %q %v %#o %d.%09d %d bytes %d links %q", node, e.Parent, e.Name,
				a.Type, a.Mode, a.Mtime.Unix(), a.Mtime.Nanosecond(), a.Size, a.Nlink, e.Target)
			if e.Open != nil {
				c, err := e.Open()
				if err != nil {
					return 0, err
				}
				b, err := io.ReadAll(c)
				if err != nil {
					return 0, err
				}
				fmt.Fprintf(&out, " %x", sum(b))
			}
			out.WriteByte('\n')
			return node, nil
		}
	}())
	return out.String(), err
}

// openAndDump reads a volume that may be damaged. Errors must have a class.
func openAndDump(b []byte, key Key) (string, error) {
	r, err := Open(bytes.NewReader(b), int64(len(b)), key)
	if err != nil {
		return "", err
	}
	return dump(r)
}

func hasClass(err error) bool { return errors.Is(err, ErrIntegrity) || errors.Is(err, ErrVersion) }

// untar unpacks a sealed volume, as unpack does, with its times.
func untar(t testing.TB, sealed []byte, dir string) {
	t.Helper()
	cmd := exec.Command("tar", "--extract", "--preserve-permissions", "--directory", dir)
	cmd.Stdin = bytes.NewReader(sealed)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
}
