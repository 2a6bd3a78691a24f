package audit

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// reader checks a log line by line.
type reader struct {
	r     *bufio.Reader
	pub   ed25519.PublicKey
	head  Head
	good  int64 // bytes up to the end of the last whole entry
	torn  bool  // the last line has no end
	event Event
}

func newReader(r io.Reader, pub ed25519.PublicKey) *reader {
	return &reader{r: bufio.NewReaderSize(r, maxLine+1), pub: pub, head: genesis(pub)}
}

// next checks one entry; signatures only if signed, since the chain alone
// tells an untouched log from its head. It returns io.EOF at the end.
func (a *reader) next(signed bool) error {
	line, err := a.r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return io.EOF
	case errors.Is(err, io.EOF):
		a.torn = true
		return io.EOF
	case errors.Is(err, bufio.ErrBufferFull):
		return fmt.Errorf("%w: line %d is too long", ErrBroken, a.head.Seq+1)
	case err != nil:
		return fmt.Errorf("read audit log: %w", err)
	}
	l, e, err := a.parse(line)
	if err != nil {
		return err
	}
	if signed {
		sig, err := base64.RawURLEncoding.Strict().DecodeString(l.Sig)
		if err != nil || !ed25519.Verify(a.pub, append([]byte(signContext), l.Entry...), sig) {
			return fmt.Errorf("%w: line %d is not signed by this service", ErrBroken, a.head.Seq+1)
		}
	}
	a.head = Head{Seq: e.Seq, Batch: e.Batch, Hash: hashHex(l.Entry)}
	a.good += int64(len(line))
	a.event = e
	return nil
}

// parse reads a line that has to follow the ones before it.
func (a *reader) parse(line []byte) (l signedLine, e Event, err error) {
	if err := manifest.DecodeJSON(line, &l); err != nil {
		return l, e, fmt.Errorf("%w: line %d: %w", ErrBroken, a.head.Seq+1, err)
	}
	if err := manifest.DecodeJSON(l.Entry, &e); err != nil {
		return l, e, fmt.Errorf("%w: line %d: %w", ErrBroken, a.head.Seq+1, err)
	}
	// One way of writing a line only: nothing unsigned can be added to it.
	if canon, err := json.Marshal(l); err != nil || !bytes.Equal(append(canon, '\n'), line) {
		return l, e, fmt.Errorf("%w: line %d is not as it was written", ErrBroken, a.head.Seq+1)
	}
	if e.Seq != a.head.Seq+1 || e.Prev != a.head.Hash || e.Batch < a.head.Batch || e.Batch > a.head.Batch+1 {
		return l, e, fmt.Errorf("%w: line %d does not follow the one before it: edited, moved or removed lines",
			ErrBroken, a.head.Seq+1)
	}
	return l, e, nil
}

// Verify checks a whole log under the service's statement key and returns the
// number of entries and the head. Edits, moves and cuts inside are
// ErrBroken. A cut at the end shows only against heads kept elsewhere:
// each of remembered must be in the log, else ErrHead.
func Verify(r io.Reader, pub ed25519.PublicKey, remembered ...keyapi.AuditHead) (int, Head, error) {
	want := map[uint64][]string{}
	for _, h := range remembered {
		want[h.Seq] = append(want[h.Seq], h.Hash)
	}
	a := newReader(r, pub)
	for {
		for _, hash := range want[a.head.Seq] {
			if hash != a.head.Hash {
				return int(a.head.Seq), a.head, fmt.Errorf("%w: entry %d is another one now", ErrHead, a.head.Seq)
			}
		}
		err := a.next(true)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return int(a.head.Seq), a.head, err
		}
	}
	if a.torn {
		return int(a.head.Seq), a.head, fmt.Errorf("%w: line %d is cut off", ErrBroken, a.head.Seq+1)
	}
	for seq := range want {
		if seq > a.head.Seq {
			return int(a.head.Seq), a.head, fmt.Errorf("%w: it ends at entry %d, the head remembered is %d: cut off at the end or rolled back",
				ErrHead, a.head.Seq, seq)
		}
	}
	return int(a.head.Seq), a.head, nil
}

// ParseHead checks a signed head, as answers carry it.
func ParseHead(pub ed25519.PublicKey, jws string) (keyapi.AuditHead, error) {
	var h keyapi.AuditHead
	err := manifest.VerifyJWS(manifest.TypeAuditHead, pub, jws, &h)
	return h, err
}
