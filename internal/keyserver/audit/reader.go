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
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// reader checks a segment line by line.
type reader struct {
	r      *bufio.Reader
	pub    ed25519.PublicKey
	head   Head  // before the first line, what the segment says that it follows
	start  Head  // the same, for good
	first  Event // the segment's beginning
	read   int64 // bytes up to the end of the last whole entry, its newline aside
	more   bool  // its batch goes on
	ended  bool  // it has its newline
	torn   bool  // after it, there is the beginning of another
	event  Event
	inHead bool // the batch is that of the segment's beginning
}

func newReader(r io.Reader, pub ed25519.PublicKey) *reader {
	return &reader{r: bufio.NewReaderSize(r, maxLine+1), pub: pub}
}

// next checks one entry; signatures only if signed, since the chain alone
// tells an untouched log from its head, and always that of the first entry. It
// returns io.EOF at the end.
func (a *reader) next(signed bool) error {
	line, err := a.r.ReadSlice('\n')
	whole := err == nil
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return io.EOF
	case errors.Is(err, bufio.ErrBufferFull):
		return fmt.Errorf("%w: the line after entry %d is too long", ErrBroken, a.head.Seq)
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("read audit log: %w", err)
	}
	line = bytes.TrimSuffix(line, []byte("\n"))
	l, e, err := a.parse(line)
	if err == nil && (signed || a.first.Segment == nil) {
		if err = checkSignature(a.pub, l); err != nil {
			err = fmt.Errorf("%w: the line after entry %d: %w", ErrBroken, a.head.Seq, err)
		}
	}
	if err != nil && !whole && a.first.Segment != nil {
		a.torn = true
		return io.EOF
	}
	if err != nil {
		return err
	}
	if a.first.Segment == nil {
		a.first, a.inHead = e, true
	} else {
		a.read++ // the newline before it
		a.inHead = a.inHead && a.more
	}
	a.head = Head{Seq: e.Seq, Batch: e.Batch, Hash: hashHex(l.Entry)}
	a.read += int64(len(line))
	a.event, a.more, a.ended = e, e.More, whole
	return nil
}

func checkSignature(pub ed25519.PublicKey, l signedLine) error {
	sig, err := base64.RawURLEncoding.Strict().DecodeString(l.Sig)
	if err != nil || !ed25519.Verify(pub, append([]byte(signContext), l.Entry...), sig) {
		return errors.New("it is not signed by this service")
	}
	return nil
}

// decodeLine reads a line, of which there is one way of writing: nothing that is not
// signed can be added to it. Whoever calls it checks the signature, or the chain up
// to a head that is known, so the entry is as the service wrote it.
func decodeLine(line []byte) (l signedLine, e Event, err error) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"entry":`))
	entry, sig := rest, []byte(nil)
	if i := bytes.LastIndex(rest, []byte(`,"sig":"`)); i >= 0 {
		entry, sig = rest[:i], rest[i+len(`,"sig":"`):]
	}
	sig, end := bytes.CutSuffix(sig, []byte(`"}`))
	if !ok || !end {
		return l, e, errors.New("it is not as it was written")
	}
	l = signedLine{Entry: entry, Sig: string(sig)}
	d := json.NewDecoder(bytes.NewReader(entry))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return l, e, err
	}
	if d.InputOffset() != int64(len(entry)) {
		return l, e, errors.New("it is not as it was written")
	}
	return l, e, nil
}

// parse reads a line that has to follow the ones before it.
func (a *reader) parse(line []byte) (l signedLine, e Event, err error) {
	if l, e, err = decodeLine(line); err != nil {
		return l, e, fmt.Errorf("%w: the line after entry %d: %w", ErrBroken, a.head.Seq, err)
	}
	if a.first.Segment == nil {
		return l, e, a.begin(e)
	}
	batch := a.head.Batch
	if !a.more {
		batch++
	}
	if e.Seq != a.head.Seq+1 || e.Prev != a.head.Hash || e.Batch != batch || e.Segment != nil {
		return l, e, fmt.Errorf("%w: the line after entry %d does not follow it: edited, moved or removed lines", ErrBroken, a.head.Seq)
	}
	return l, e, nil
}

// begin reads the entry that a segment begins with.
func (a *reader) begin(e Event) error {
	if e.Segment == nil || e.Segment.Number < 1 || e.Seq < 1 || e.Batch < 1 {
		return fmt.Errorf("%w: it does not start with the beginning of a segment: lines were removed", ErrBroken)
	}
	a.head = Head{Seq: e.Seq - 1, Batch: e.Batch - 1, Hash: e.Prev}
	if first := a.head == Genesis(a.pub); first != (e.Segment.Number == 1) {
		return fmt.Errorf("%w: it begins with the log of another service", ErrBroken)
	}
	a.start = a.head
	return nil
}

// checked is a segment that goes with the store.
type checked struct {
	head    Head
	size    int64 // bytes up to head, without the newline
	start   Head  // of the segment's beginning
	segment Segment
	began   time.Time
	records *Records
	dropped int // entries after head
}

// Follows reports whether the segment that is written to agrees with the store's head, as Open does, and changes nothing.
func Follows(r io.Reader, pub ed25519.PublicKey, stored Head) error {
	_, err := check(r, pub, stored)
	return err
}

// check reads the segment that is written to. It has to hold the store's head, or
// to follow it at once.
func check(r io.Reader, pub ed25519.PublicKey, stored Head) (c checked, err error) {
	a := newReader(r, pub)
	met := false
	for {
		err := a.next(met)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c, err
		}
		if a.first.Segment != nil && c.records == nil {
			c.records, c.segment, c.began = newRecords(a.first.Segment.Records), *a.first.Segment, a.first.Time
			met = a.start == stored
		}
		if met && !a.inHead {
			c.dropped++
			if a.head.Batch > c.head.Batch+1 {
				break
			}
			continue
		}
		if err := c.records.follows(a.event.Changes); err != nil {
			return c, err
		}
		c.records.note(a.event.Changes)
		c.head, c.size = a.head, a.read
		if a.inHead {
			c.start = a.head
		}
		if a.head.Seq == stored.Seq && a.head != stored {
			return c, fmt.Errorf("%w: entry %d is not the one that the store remembers", ErrRolledBack, stored.Seq)
		}
		met = met || a.head == stored
	}
	switch {
	case c.records == nil:
		return c, fmt.Errorf("%w: it is empty, and the store knows of %d entries", ErrRolledBack, stored.Seq)
	case !met && a.start.Seq < stored.Seq:
		return c, fmt.Errorf("%w: the log ends at entry %d, the store knows of %d: the log was cut, replaced or put back to an older state",
			ErrRolledBack, a.head.Seq, stored.Seq)
	case !met || c.dropped > 0 && (a.ended && !a.more || a.head.Batch > c.head.Batch+1):
		return c, fmt.Errorf("%w: the log goes on after entry %d, the last that the store knows: the store was put back to an older state",
			ErrRolledBack, stored.Seq)
	case a.inHead && a.more:
		return c, fmt.Errorf("%w: it is cut off after entry %d", ErrBroken, a.head.Seq)
	}
	return c, nil
}

// Row is what Verify has found: a row of segments that hold.
type Row struct {
	Entries     int
	First, Last int  // segments' numbers
	Before      Head // what the first one says that it follows
	Head        Head
}

// Verify checks segments that follow each other under the service's statement
// key. Edits, moves and cuts inside are ErrBroken, and so is a segment that is
// missing between others. A cut at the end shows only against heads kept
// elsewhere: each of remembered must be in the row, else ErrHead. A last line
// that lacks its newline counts: the service is writing it, or died meanwhile.
func Verify(pub ed25519.PublicKey, segments []io.Reader, remembered ...keyapi.AuditHead) (row Row, err error) {
	want := map[uint64][]string{}
	for _, h := range remembered {
		want[h.Seq] = append(want[h.Seq], h.Hash)
	}
	for i, s := range segments {
		a := newReader(s, pub)
		if err := verify(a, i == 0, &row, want); err != nil {
			return row, err
		}
		if a.torn || a.more {
			return row, fmt.Errorf("%w: it is cut off after entry %d", ErrBroken, a.head.Seq)
		}
	}
	for seq := range want {
		switch {
		case seq > row.Head.Seq:
			return row, fmt.Errorf("%w: it ends at entry %d, the head remembered is %d: cut off at the end or rolled back",
				ErrHead, row.Head.Seq, seq)
		case seq < row.Before.Seq:
			return row, fmt.Errorf("%w: entry %d is in an earlier segment than these", ErrHead, seq)
		}
	}
	return row, nil
}

// verify adds one segment to a row.
func verify(a *reader, first bool, row *Row, want map[uint64][]string) error {
	for {
		began := a.first.Segment != nil
		err := a.next(true)
		if !began && a.first.Segment != nil {
			if !first && a.start != row.Head {
				return fmt.Errorf("%w: segment %d does not follow segment %d: lines at its end or segments between are missing",
					ErrBroken, a.first.Segment.Number, row.Last)
			}
			if first {
				row.First, row.Before, row.Head = a.first.Segment.Number, a.start, a.start
				if err := keeps(want, a.start); err != nil {
					return err
				}
			}
			row.Last = a.first.Segment.Number
		}
		if errors.Is(err, io.EOF) && a.first.Segment != nil {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: it is empty", ErrHead)
		}
		if err != nil {
			return err
		}
		row.Entries++
		row.Head = a.head
		if err := keeps(want, a.head); err != nil {
			return err
		}
	}
}

// keeps compares an entry with the heads that are remembered.
func keeps(want map[uint64][]string, h Head) error {
	for _, hash := range want[h.Seq] {
		if hash != h.Hash {
			return fmt.Errorf("%w: entry %d is another one now", ErrHead, h.Seq)
		}
	}
	return nil
}

// ParseHead checks a signed head, as answers carry it.
func ParseHead(pub ed25519.PublicKey, jws string) (keyapi.AuditHead, error) {
	var h keyapi.AuditHead
	err := manifest.VerifyJWS(manifest.TypeAuditHead, pub, jws, &h)
	return h, err
}
