package audit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
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
	if b.l, _, err = Open(b.path, key, Head{}); err != nil {
		t.Fatal(err)
	}
	return b
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
	b.write(t, 6)
	b.stop(t)
	raw := b.read(t)
	lines := strings.SplitAfter(string(raw), "\n")[:6]
	n, head, err := Verify(bytes.NewReader(raw), b.pub)
	if err != nil || n != 6 || head.Seq != 6 {
		t.Fatalf("whole log: %d entries, %+v, %v", n, head, err)
	}
	remembered := keyapi.AuditHead{Seq: head.Seq, Hash: head.Hash}
	join := func(l ...string) string { return strings.Join(l, "") }
	other := newBench(t)
	other.write(t, 6)
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
		"newline lost":        {string(raw[:len(raw)-1]), ErrBroken},
		"blank added":         {" " + string(raw), ErrBroken},
		"field added":         {strings.Replace(string(raw), `{"entry"`, `{"note":1,"entry"`, 1), ErrBroken},
		"signature swapped":   {strings.Replace(string(raw), `"sig":"`, `"sig":"A`, 1), ErrBroken},
		"another's log":       {string(other.read(t)), ErrBroken},
		"cut at the end":      {join(lines[:5]...), ErrHead},
		"empty":               {"", ErrHead},
	} {
		_, _, err := Verify(strings.NewReader(tc.log), b.pub, remembered)
		if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
			t.Errorf("%s: %v; want %v", name, err, tc.want)
		}
	}
	forged := remembered
	forged.Seq, forged.Hash = 3, strings.Repeat("0", 64)
	if _, _, err := Verify(bytes.NewReader(raw), b.pub, forged, remembered); !errors.Is(err, ErrHead) {
		t.Errorf("a remembered head that differs inside: %v", err)
	}
}

// TestEveryCut cuts a log at every byte. Whoever has a kept head, or the
// store, finds each; whoever has the log alone, each that is not at the end of
// a line. What follows the store's head, as after a crash, is dropped.
func TestEveryCut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 3) // so that there is a first, one in the middle and a last
	b.stop(t)
	raw := b.read(t)
	n, head, err := Verify(bytes.NewReader(raw), b.pub)
	if err != nil || n != 3 {
		t.Fatal(n, err)
	}
	kept := keyapi.AuditHead{Seq: head.Seq, Hash: head.Hash}
	for cut := range len(raw) {
		part := raw[:cut]
		atEnd := cut == 0 || part[cut-1] == '\n'
		if _, _, err := Verify(bytes.NewReader(part), b.pub); errors.Is(err, ErrBroken) == atEnd {
			t.Errorf("cut at %d, the log alone: %v", cut, err)
		}
		if _, _, err := Verify(bytes.NewReader(part), b.pub, kept); !errors.Is(err, ErrBroken) && !errors.Is(err, ErrHead) {
			t.Errorf("cut at %d, with a kept head: %v", cut, err)
		}
		if _, _, err := check(bytes.NewReader(part), b.pub, head); !errors.Is(err, ErrRolledBack) {
			t.Errorf("cut at %d, with the store: %v", cut, err)
		}
		tail := append(bytes.Clone(raw), part[:min(cut, bytes.IndexByte(raw, '\n'))]...)
		if a, recovered, err := check(bytes.NewReader(tail), b.pub, head); err != nil || recovered != 0 ||
			a.good != int64(len(raw)) {
			t.Errorf("%d bytes of a line after the store's head: %d recovered, %v", cut, recovered, err)
		}
	}
}

// TestEveryByte alters each byte of a log: all is found without the store.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 3)
	b.stop(t)
	raw := b.read(t)
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, _, err := Verify(bytes.NewReader(bad), b.pub); !errors.Is(err, ErrBroken) {
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
	forged, _, err := render(genesis(b.pub), stranger, time.Now(), []*Event{{Event: "release", Outcome: OutcomeDone}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Verify(bytes.NewReader(forged), b.pub); !errors.Is(err, ErrBroken) {
		t.Errorf("a log signed by a stranger: %v", err)
	}
	b.stop(t)
}

// TestStartAfterCrash has the log one batch ahead of the store, as when the
// service dies between its two writes; forged lines there are found.
func TestStartAfterCrash(t *testing.T) {
	t.Parallel()
	for name, genuine := range map[string]bool{"genuine": true, "forged": false} {
		b := newBench(t)
		b.write(t, 2)
		head := b.l.head
		b.stop(t)
		key := b.key
		if !genuine {
			var err error
			if _, key, err = ed25519.GenerateKey(nil); err != nil {
				t.Fatal(err)
			}
		}
		ahead, _, err := render(head, key, time.Now(), []*Event{{Event: "release", Outcome: OutcomeReleased},
			{Event: "release", Outcome: OutcomeReleased}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.path, append(b.read(t), ahead...), 0o600); err != nil {
			t.Fatal(err)
		}
		l, recovered, err := Open(b.path, b.key, head)
		switch {
		case !genuine && !errors.Is(err, ErrBroken):
			t.Errorf("%s: %v", name, err)
		case genuine && (err != nil || recovered != 2 || l.head.Seq != 4):
			t.Errorf("%s: %d recovered, %v", name, recovered, err)
		}
		if err == nil {
			l.f.Close()
		}
	}
}
