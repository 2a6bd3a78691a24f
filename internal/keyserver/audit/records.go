package audit

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"

	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

// Where the service keeps the log's head: the one record that the log does not
// tell of.
const (
	HeadBucket = "meta"
	HeadKey    = "audit-head"
)

// place is where a record is: bucket and key.
type place [2]string

func (p place) String() string { return fmt.Sprintf("record %q in bucket %q", p[1], p[0]) }

func comparePlaces(a, b place) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }

// span is what a record was at some moment, and what it is now.
type span struct{ was, now store.Digest }

// spans are the records that changed since some moment.
type spans map[place]span

// note adds a change that follows those before it.
func (s spans) note(c store.Change) {
	p := place{c.Bucket, c.Key}
	was := c.Was
	if before, ok := s[p]; ok {
		was = before.was
	}
	s[p] = span{was, c.Now}
}

// changes returns what the spans come to, in order.
func (s spans) changes() (out []store.Change) {
	for _, p := range slices.SortedFunc(maps.Keys(s), comparePlaces) {
		if s[p].was != s[p].now {
			out = append(out, store.Change{Bucket: p[0], Key: p[1], Was: s[p].was, Now: s[p].now})
		}
	}
	return out
}

// Records are what the log says of the store's records: a digest over all of them
// at one moment, and which have changed since. The digest is the SHA-256 of
// "sealbatch-records v1", a zero byte and, for every record but the log's head, by
// bucket and then key, of the lengths of both (4 bytes each, big endian), both, and
// the digest of the record's sealed value.
//
//	store:    a b'  d e      what is there now
//	changes:    b'   -c      each must be the last that the log has
//	digest:   a b c d e      the scan, with what the changed ones were at first
type Records struct {
	digest store.Digest
	// since has the changes after the digest's moment; while a check runs, those
	// up to its snapshot are in checked, and since has the later ones.
	since, checked spans
}

func newRecords(digest store.Digest) *Records { return &Records{digest: digest, since: spans{}} }

// follows returns an error unless the changes follow what the log says.
func (r *Records) follows(changes []store.Change) error {
	now := spans{}
	for _, c := range changes {
		p := place{c.Bucket, c.Key}
		last, ok := now[p]
		if !ok {
			last, ok = r.since[p]
		}
		if !ok {
			last, ok = r.checked[p]
		}
		if ok && last.now != c.Was {
			return fmt.Errorf("%w: %s was put back or altered", ErrAltered, p)
		}
		now.note(c)
	}
	return nil
}

func (r *Records) note(changes []store.Change) {
	for _, c := range changes {
		r.since.note(c)
	}
}

// Check is one comparison of a snapshot of the store with the log.
type Check struct {
	digest  store.Digest
	changed spans
	seq     uint64 // the last entry that the snapshot has
	// Now is the digest over the records of the snapshot, once they are compared.
	Now store.Digest
}

// begin returns the check of a snapshot that the store has now.
func (r *Records) begin() *Check {
	r.checked, r.since = r.since, spans{}
	return &Check{digest: r.digest, changed: r.checked}
}

// end forgets what c has found to hold, if it has.
func (r *Records) end(c *Check, held bool) {
	if held {
		r.digest = c.Now
	} else {
		later := r.since
		r.since = r.checked
		r.note(later.changes())
	}
	r.checked = nil
}

// digester makes the digest over records, which come in order.
type digester struct {
	h   hash.Hash
	buf []byte
}

func newDigester() *digester {
	d := &digester{h: sha256.New()}
	d.h.Write([]byte("sealbatch-records v1\x00"))
	return d
}

func (d *digester) add(p place, kept store.Digest) {
	if kept == (store.Digest{}) {
		return // no record
	}
	d.buf = binary.BigEndian.AppendUint32(d.buf[:0], uint32(len(p[0])))
	d.buf = binary.BigEndian.AppendUint32(d.buf, uint32(len(p[1])))
	d.buf = append(append(append(d.buf, p[0]...), p[1]...), kept[:]...)
	d.h.Write(d.buf)
}

func (d *digester) sum() store.Digest { return store.Digest(d.h.Sum(nil)) }

// Compare reads all records once. What differs from the log is ErrAltered; it
// names the record, unless none of the segments that are there has a change of it.
func (l *Log) Compare(c *Check, r store.Reader) error {
	before, err := c.compare(r)
	if err != nil || before == c.digest {
		return err
	}
	// It did not change in this segment. Those before it may name it.
	all := newRecords(store.Digest{})
	err = Walk(l.path, l.public(), []byte(`"changes":`), func(e Event) error {
		if e.Seq > c.seq || e.Segment != nil { // what a segment begins with is there twice
			return nil
		}
		if err := all.follows(e.Changes); err != nil {
			return err
		}
		all.note(e.Changes)
		return nil
	})
	if err == nil {
		_, err = (&Check{changed: all.since}).compare(r)
	}
	if errors.Is(err, ErrAltered) {
		return err
	}
	return errors.Join(fmt.Errorf("%w: one of them was put back, altered, added or removed, of which the segments that are here say nothing",
		ErrAltered), err)
}

// compare returns the digest over the records as they were when the changes began.
func (c *Check) compare(r store.Reader) (was store.Digest, err error) {
	var gone []place // in order: they were there at first
	missing := map[place]bool{}
	for p, s := range c.changed {
		if s.now != (store.Digest{}) {
			missing[p] = true
		} else if s.was != (store.Digest{}) {
			gone = append(gone, p)
		}
	}
	slices.SortFunc(gone, comparePlaces)
	before, now := newDigester(), newDigester()
	err = r.Digests(func(bucket, key string, kept store.Digest) error {
		p := place{bucket, key}
		if p == (place{HeadBucket, HeadKey}) {
			return nil
		}
		for len(gone) > 0 && comparePlaces(gone[0], p) < 0 {
			before.add(gone[0], c.changed[gone[0]].was)
			gone = gone[1:]
		}
		was := kept
		if s, ok := c.changed[p]; ok {
			if s.now != kept {
				return fmt.Errorf("%w: %s was put back, altered or added", ErrAltered, p)
			}
			delete(missing, p)
			was = s.was
		}
		before.add(p, was)
		now.add(p, kept)
		return nil
	})
	if err != nil {
		return was, err
	}
	for _, p := range gone {
		before.add(p, c.changed[p].was)
	}
	if len(missing) > 0 {
		first := slices.MinFunc(slices.Collect(maps.Keys(missing)), comparePlaces)
		return was, fmt.Errorf("%w: %s is missing", ErrAltered, first)
	}
	c.Now = now.sum()
	return before.sum(), nil
}
