package audit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

func (b *bench) rotate(t *testing.T) {
	t.Helper()
	if err := b.l.Rotate(time.Now(), store.Digest{2}); err != nil {
		t.Fatal(err)
	}
}

// row returns the segments that are there, as readers.
func (b *bench) row(t *testing.T, which ...int) (out []io.Reader) {
	t.Helper()
	names, err := Segments(b.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range which {
		raw, err := os.ReadFile(names[i])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.NewReader(raw))
	}
	return out
}

// TestSegments closes segments and verifies rows of them.
func TestSegments(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 2)
	b.rotate(t)
	kept := keyapi.AuditHead{Seq: b.l.head.Seq, Hash: b.l.head.Hash}
	b.write(t, 1)
	b.rotate(t)
	b.write(t, 3)
	b.stop(t)
	names, err := Segments(b.path)
	want := []string{"audit-000001.log", "audit-000002.log", "audit.log"}
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	if err != nil || !slices.Equal(names, want) {
		t.Fatalf("segments: %q, %v", names, err)
	}
	for _, tc := range []struct {
		which   []int
		heads   []keyapi.AuditHead
		entries int
		before  uint64
		want    error
	}{
		{[]int{0, 1, 2}, []keyapi.AuditHead{kept}, 9, 0, nil},
		{[]int{1, 2}, []keyapi.AuditHead{kept}, 6, 3, nil},
		{[]int{2}, nil, 4, 5, nil},
		{[]int{0}, nil, 3, 0, nil},
		{[]int{1}, nil, 2, 3, nil},
		{[]int{0, 2}, nil, 0, 0, ErrBroken},
		{[]int{1, 0}, nil, 0, 0, ErrBroken},
		{[]int{0, 0}, nil, 0, 0, ErrBroken},
		{[]int{0}, []keyapi.AuditHead{kept}, 0, 0, ErrHead},
		{[]int{2}, []keyapi.AuditHead{kept}, 0, 0, ErrHead},
	} {
		row, err := Verify(b.pub, b.row(t, tc.which...), tc.heads...)
		if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) ||
			err == nil && (row.Entries != tc.entries || row.Before.Seq != tc.before || row.First != tc.which[0]+1) {
			t.Errorf("segments %v: %+v, %v; want %v", tc.which, row, err, tc.want)
		}
	}
	// The current one is enough to go on.
	for _, n := range names[:2] {
		if err := os.Remove(filepath.Join(filepath.Dir(b.path), n)); err != nil {
			t.Fatal(err)
		}
	}
	l, dropped, err := Open(b.path, nil, b.key, b.l.head)
	if err != nil || dropped != 0 || l.number != 3 || l.head != b.l.head {
		t.Fatalf("without the earlier segments: %d dropped, %v", dropped, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRotateCrash ends between the steps of closing a segment: the log opens, the
// store knowing of the old end only, and closes it later.
func TestRotateCrash(t *testing.T) {
	t.Parallel()
	for name, crash := range map[string]func(b *bench, old []byte) error{
		"before anything": func(b *bench, old []byte) error {
			return errors.Join(os.Remove(archived(b.path, 1)), os.WriteFile(b.path, old, 0o600))
		},
		"next half written": func(b *bench, old []byte) error {
			return errors.Join(os.Rename(b.path, b.path+".next"), os.Truncate(b.path+".next", 30), os.Rename(archived(b.path, 1), b.path))
		},
		"two names": func(b *bench, old []byte) error {
			return errors.Join(os.Rename(b.path, b.path+".next"), os.Link(archived(b.path, 1), b.path))
		},
		"store not told": func(*bench, []byte) error { return nil },
	} {
		b := newBench(t)
		b.write(t, 2)
		head, old := b.l.head, b.read(t)
		b.rotate(t)
		b.rotate(t) // asked for twice
		b.stop(t)
		if err := crash(b, old); err != nil {
			t.Fatal(err)
		}
		var dropped int
		var err error
		if b.l, dropped, err = Open(b.path, nil, b.key, head); err != nil || dropped != 0 {
			t.Fatalf("%s: %d dropped, %v", name, dropped, err)
		}
		b.write(t, 1)
		b.rotate(t)
		b.write(t, 1)
		b.stop(t)
		names, err := Segments(b.path)
		if err != nil {
			t.Fatal(err)
		}
		all := []int{0, 1, 2}[:len(names)]
		if row, err := Verify(b.pub, b.row(t, all...)); err != nil || row.Head != b.l.head || row.Before.Seq != 0 {
			t.Errorf("%s: %+v, %v", name, row, err)
		}
	}
}

// TestRotateFails keeps the segment as it is if the next one cannot be begun.
func TestRotateFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 1)
	if err := os.WriteFile(archived(b.path, 1), nil, 0o600); err != nil { // somebody else's
		t.Fatal(err)
	}
	if err := b.l.Rotate(time.Now(), store.Digest{2}); err == nil {
		t.Error("a file was overwritten")
	}
	if _, err := os.Stat(b.path + ".next"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	b.write(t, 1)
	b.stop(t)
	if row, err := Verify(b.pub, []io.Reader{bytes.NewReader(b.read(t))}); err != nil || row.Entries != 3 || row.Last != 1 {
		t.Errorf("%+v, %v", row, err)
	}
}

// TestLongChanges has more changes in one event than one entry holds.
func TestLongChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var changes []store.Change
	for i := range 5000 {
		key := string(bytes.Repeat([]byte{'<'}, 50)) + string(rune('a'+i))
		changes = append(changes, store.Change{Bucket: "bucket", Key: key, Now: store.Digest{1}})
	}
	head, err := b.l.Append(time.Now(), []*Event{{Event: "purge", Changes: changes}, {Event: "test"}})
	if err != nil {
		t.Fatal(err)
	}
	b.l.Keep(head)
	b.stop(t)
	raw := b.read(t)
	if row, err := Verify(b.pub, []io.Reader{bytes.NewReader(raw)}); err != nil || row.Entries < 5 {
		t.Errorf("%+v, %v", row, err)
	}
	c, err := check(bytes.NewReader(raw), b.pub, head)
	if err != nil || len(c.records.since) != len(changes) {
		t.Errorf("%d changes, %v", len(c.records.since), err)
	}
	// A batch that is cut between two of its entries is seen.
	if _, err := Verify(b.pub, []io.Reader{bytes.NewReader(raw[:bytes.LastIndexByte(raw[:len(raw)-1], '\n')+1])}); !errors.Is(err, ErrBroken) {
		t.Errorf("a batch that was cut: %v", err)
	}
	var seen []Event
	if err := Walk(b.path, b.pub, []byte(`"event":"purge"`), func(e Event) error { seen = append(seen, e); return nil }); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range seen {
		n += len(e.Changes)
	}
	if n != len(changes) {
		t.Errorf("Walk saw %d changes", n)
	}
}

// TestWalk sees each entry once, over all segments, and none that the store has not.
func TestWalk(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 2)
	b.rotate(t)
	b.write(t, 1)
	if _, err := b.l.Append(time.Now(), []*Event{{Event: "test"}}); err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	walk := func(pub ed25519.PublicKey) error {
		seqs = nil
		return Walk(b.path, pub, nil, func(e Event) error { seqs = append(seqs, e.Seq); return nil })
	}
	if err := walk(b.pub); err != nil || !slices.Equal(seqs, []uint64{1, 2, 3, 4, 5}) {
		t.Errorf("%v, %v", seqs, err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := walk(other); !errors.Is(err, ErrBroken) {
		t.Errorf("under another key: %v", err)
	}
	b.stop(t)
}
