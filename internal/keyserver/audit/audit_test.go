package audit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

// bench is a log on disk.
type bench struct {
	path string
	key  ed25519.PrivateKey
	pub  ed25519.PublicKey
	l    *Log
}

func newBench(t *testing.T) *bench {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{path: filepath.Join(t.TempDir(), "audit.log"), key: key, pub: pub}
	if b.l, _, err = Open(b.path, nil, key, Genesis(pub)); err != nil {
		t.Fatal(err)
	}
	if err := b.l.Rotate(time.Now(), store.Digest{1}); err != nil {
		t.Fatal(err)
	}
	return b
}

// verifyOne is Verify of one segment, which returns the number of entries.
func verifyOne(log []byte, pub ed25519.PublicKey, remembered ...keyapi.AuditHead) (int, Head, error) {
	row, err := Verify(pub, []io.Reader{bytes.NewReader(log)}, remembered...)
	return row.Entries, row.Head, err
}

// write makes n entries, each a batch of its own.
func (b *bench) write(t *testing.T, n int) {
	t.Helper()
	for range n {
		head, err := b.l.Append(time.Now(), []*Event{{Event: "test", Outcome: OutcomeDone, User: "alice"}})
		if err != nil {
			t.Fatal(err)
		}
		b.l.Keep(head)
	}
}

func (b *bench) stop(t *testing.T) {
	t.Helper()
	if err := b.l.Close(); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) read(t *testing.T) []byte {
	t.Helper()
	raw, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestVerify(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 5)
	b.stop(t)
	raw := b.read(t)
	lines := strings.SplitAfter(string(raw), "\n")[:6]
	n, head, err := verifyOne(raw, b.pub)
	if err != nil || n != 6 || head.Seq != 6 {
		t.Fatalf("whole log: %d entries, %+v, %v", n, head, err)
	}
	remembered := keyapi.AuditHead{Seq: head.Seq, Hash: head.Hash}
	join := func(l ...string) string { return strings.Join(l, "") }
	other := newBench(t)
	other.write(t, 5)
	other.stop(t)
	for name, tc := range map[string]struct {
		log  string
		want error
	}{
		"untouched":           {string(raw), nil},
		"edited":              {strings.Replace(string(raw), "alice", "mallo", 1), ErrBroken},
		"edited last":         {join(lines[:5]...) + strings.Replace(lines[5], "alice", "mallo", 1), ErrBroken},
		"line removed":        {join(lines[:2]...) + join(lines[3:]...), ErrBroken},
		"first line removed":  {join(lines[1:]...), ErrBroken},
		"reordered":           {join(lines[0], lines[2], lines[1]) + join(lines[3:]...), ErrBroken},
		"line doubled":        {join(lines[:2]...) + join(lines[1:]...), ErrBroken},
		"last line cut short": {string(raw[:len(raw)-5]), ErrBroken},
		"newline lost":        {string(raw[:len(raw)-1]), nil}, // it is being written
		"blank added":         {" " + string(raw), ErrBroken},
		"field added":         {strings.Replace(string(raw), `{"entry"`, `{"note":1,"entry"`, 1), ErrBroken},
		"signature swapped":   {strings.Replace(string(raw), `"sig":"`, `"sig":"A`, 1), ErrBroken},
		"another's log":       {string(other.read(t)), ErrBroken},
		"cut at the end":      {join(lines[:5]...), ErrHead},
		"empty":               {"", ErrHead},
	} {
		_, _, err := verifyOne([]byte(tc.log), b.pub, remembered)
		if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
			t.Errorf("%s: %v; want %v", name, err, tc.want)
		}
	}
	forged := remembered
	forged.Seq, forged.Hash = 3, strings.Repeat("0", 64)
	if _, _, err := verifyOne(raw, b.pub, forged, remembered); !errors.Is(err, ErrHead) {
		t.Errorf("a remembered head that differs inside: %v", err)
	}
}

// TestEveryCut cuts a log at every byte. Whoever has a kept head, or the
// store, finds each; whoever has the log alone, each that is not at the end of
// a line. What follows the store's head, as after a crash, is dropped.
func TestEveryCut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 2) // so that there is a first, one in the middle and a last
	b.stop(t)
	raw := b.read(t)
	n, head, err := verifyOne(raw, b.pub)
	if err != nil || n != 3 {
		t.Fatal(n, err)
	}
	kept := keyapi.AuditHead{Seq: head.Seq, Hash: head.Hash}
	for cut := range len(raw) - 1 { // the last newline tells nothing
		part := raw[:cut]
		atEnd := cut == 0 || part[cut-1] == '\n' || raw[cut] == '\n'
		if _, _, err := verifyOne(part, b.pub); errors.Is(err, ErrBroken) == atEnd {
			t.Errorf("cut at %d, the log alone: %v", cut, err)
		}
		if _, _, err := verifyOne(part, b.pub, kept); !errors.Is(err, ErrBroken) && !errors.Is(err, ErrHead) {
			t.Errorf("cut at %d, with a kept head: %v", cut, err)
		}
		if _, err := check(bytes.NewReader(part), b.pub, head); !errors.Is(err, ErrRolledBack) && !errors.Is(err, ErrBroken) {
			t.Errorf("cut at %d, with the store: %v", cut, err)
		}
		tail := append(bytes.Clone(raw), part[:min(cut, bytes.IndexByte(raw, '\n'))]...)
		if c, err := check(bytes.NewReader(tail), b.pub, head); err != nil || c.dropped != 0 || c.size+1 != int64(len(raw)) {
			t.Errorf("%d bytes of a line after the store's head: %d dropped, %v", cut, c.dropped, err)
		}
	}
}

// TestEveryByte alters each byte of a log: all is found without the store.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 2)
	b.stop(t)
	raw := b.read(t)
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, _, err := verifyOne(bad, b.pub); !errors.Is(err, ErrBroken) {
			t.Errorf("byte %d (%q): %v", i, raw[i], err)
		}
	}
}

// TestRewrittenChain is what somebody does who can write the log and compute
// hashes, but does not have the statement key.
func TestRewrittenChain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	forged, _, err := render(Genesis(b.pub), stranger, time.Now(),
		[]*Event{{Event: "segment", Outcome: OutcomeDone, Segment: &Segment{Number: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := verifyOne(forged, b.pub); !errors.Is(err, ErrBroken) {
		t.Errorf("a log signed by a stranger: %v", err)
	}
	b.stop(t)
}

// TestStartAfterCrash has the log one batch ahead of the store, as when the
// service dies between its two writes, cut at every byte. It is removed, however
// much of it there is, until it has the newline that says that the store has it.
func TestStartAfterCrash(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 2)
	head, whole := b.l.head, b.read(t)
	b.stop(t)
	crash := func(key ed25519.PrivateKey, batches int) []byte {
		var out []byte
		for h := head; batches > 0; batches-- {
			var lines []byte
			var err error
			lines, h, err = render(h, key, time.Now(), []*Event{{Event: "release", Outcome: OutcomeReleased,
				Changes: []store.Change{{Bucket: "b", Key: "k", Now: store.Digest{1}}}}, {Event: "release", Outcome: OutcomeReleased}})
			if err != nil {
				t.Fatal(err)
			}
			out = append(append(out, lines...), '\n')
		}
		return out
	}
	ahead := crash(b.key, 1)
	start := func(tail []byte) (*Log, int, error) {
		if err := os.WriteFile(b.path, append(bytes.Clone(whole), tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		return Open(b.path, nil, b.key, head)
	}
	for cut := range len(ahead) {
		l, dropped, err := start(ahead[:cut])
		want := 0
		for _, end := range []int{bytes.IndexByte(ahead, '\n'), len(ahead) - 1} {
			if cut >= end {
				want++
			}
		}
		if err != nil || dropped != want || l.head != head || len(l.records.since) != 0 || !bytes.Equal(b.read(t), whole) {
			t.Fatalf("the first %d bytes of a batch: %d dropped, %v", cut, dropped, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tail []byte
		want error
	}{
		"a batch that the store had":  {ahead, ErrRolledBack},
		"two batches":                 {crash(b.key, 2), ErrRolledBack},
		"two batches, the second cut": {crash(b.key, 2)[:len(ahead)+20], ErrRolledBack},
		"forged":                      {crash(stranger, 1), ErrBroken},
	} {
		if _, _, err := start(c.tail); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// FuzzVerify reads logs of somebody without the statement key: what holds is a
// genuine one, or the beginning of it.
func FuzzVerify(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	pub := key.Public().(ed25519.PublicKey)
	at := time.Unix(1, 0)
	first, head, err := render(Genesis(pub), key, at, []*Event{{Event: "segment", Segment: &Segment{Number: 1, Records: store.Digest{1}}}})
	if err != nil {
		f.Fatal(err)
	}
	second, _, err := render(head, key, at, []*Event{{Event: "test"}, {Event: "test", Changes: []store.Change{{Bucket: "b", Key: "k"}}}})
	if err != nil {
		f.Fatal(err)
	}
	genuine := append(append(append(first, '\n'), second...), '\n')
	for cut := range genuine {
		if genuine[cut] == '\n' {
			f.Add(genuine[:cut])
			f.Add(genuine[:cut+1])
		}
	}
	f.Add(bytes.Replace(genuine, []byte("test"), []byte("more"), 1))
	f.Fuzz(func(t *testing.T, log []byte) {
		if _, err := Verify(pub, []io.Reader{bytes.NewReader(log)}); err == nil && !bytes.HasPrefix(genuine, log) {
			t.Errorf("%q holds", log)
		}
		if c, err := check(bytes.NewReader(log), pub, head); err == nil && c.head != head {
			t.Errorf("%q goes with a store that knows of entry %d", log, head.Seq)
		}
	})
}
