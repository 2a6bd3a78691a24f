package squashfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// xattrPrefixes are the name spaces that the format has, in the order of their numbers.
var xattrPrefixes = [...]string{"user.", "trusted.", "security."}

// Linux's limits.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

// xattrTable collects sets of extended attributes. Inodes with equal sets share one.
type xattrTable struct {
	kv      *metaWriter
	written bytes.Buffer // what kv has written
	sets    map[digest]uint32
	lookup  []byte // 16 bytes a set: reference, number of attributes, size
}

func newXattrTable(enc encoder) *xattrTable {
	x := &xattrTable{sets: map[digest]uint32{}}
	x.kv = newMetaWriter(&x.written, enc)
	return x
}

// index returns the number of a set of attributes, which checkXattrs passed.
func (x *xattrTable) index(attrs map[string][]byte) (uint32, error) {
	if len(attrs) == 0 {
		return noXattr, nil
	}
	var set []byte
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		prefix, rest := splitXattr(name)
		set = le.AppendUint16(set, uint16(prefix))
		set = le.AppendUint16(set, uint16(len(rest)))
		set = append(set, rest...)
		set = le.AppendUint32(set, uint32(len(attrs[name])))
		set = append(set, attrs[name]...)
	}
	d := sha256.Sum256(set)
	if i, ok := x.sets[d]; ok {
		return i, nil
	}
	i := uint32(len(x.sets))
	x.sets[d] = i
	x.lookup = le.AppendUint64(x.lookup, x.kv.ref())
	x.lookup = le.AppendUint32(x.lookup, uint32(len(attrs)))
	x.lookup = le.AppendUint32(x.lookup, uint32(len(set)))
	return i, writeAll(x.kv, set)
}

// write writes the table and returns where its head is.
func (x *xattrTable) write(out *counter, enc encoder) (uint64, error) {
	if len(x.sets) == 0 {
		return absent, nil
	}
	if err := x.kv.flush(); err != nil {
		return 0, err
	}
	head := le.AppendUint64(nil, out.n)
	head = le.AppendUint32(head, uint32(len(x.sets)))
	head = le.AppendUint32(head, 0)
	if _, err := x.written.WriteTo(out); err != nil {
		return 0, err
	}
	return writeTable(out, enc, head, func(w io.Writer) error { return writeAll(w, x.lookup) })
}

// splitXattr returns the number of a name's prefix and what follows it; -1 if the format has no such prefix.
func splitXattr(name string) (prefix int, rest string) {
	for i, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p); ok {
			return i, rest
		}
	}
	return -1, name
}

func checkXattrs(attrs map[string][]byte) error {
	for name, value := range attrs {
		prefix, rest := splitXattr(name)
		if prefix < 0 || rest == "" || len(name) > maxXattrName || strings.Contains(rest, "\x00") {
			return fmt.Errorf("the extended attribute %.300q %w", name, ErrNode)
		}
		if len(value) > maxXattrValue {
			return fmt.Errorf("%d bytes of the extended attribute %q %w", len(value), name, ErrNode)
		}
	}
	return nil
}
