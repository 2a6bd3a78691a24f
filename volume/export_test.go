package volume

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// For the tests in package volume_test, which must not see more of this one.
var (
	CompareTrees      = compareTrees
	GocryptfsBinaries = gocryptfsBinaries
	MountGocryptfs    = mountGocryptfs
	Unpack            = unpack
	CipherSize        = cipherSize
)

// Reindexer returns the index records and numbers of names of the good vectors,
// a function that seals any records into a volume, and that volume's key.
func Reindexer(tb testing.TB) (records [][]byte, entries []uint32, reindex func(testing.TB, []byte, uint32) []byte, key string) {
	tb.Helper()
	for _, g := range goodVectors() {
		if g.identity == "x25519" {
			v := newVictim(tb, g.name)
			records, entries = append(records, v.records()), append(entries, uint32(v.head.entries))
		}
	}
	v := newVictim(tb, "good-sizes")
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	must(tb, err)
	reindex = func(tb testing.TB, r []byte, n uint32) []byte {
		mine := *v
		mine.t = tb
		return mine.repacked(zw.EncodeAll(r, nil), uint64(n), uint64(len(r)), nil)
	}
	return records, entries, reindex, v.key.Hex()
}

// ReadLines reads all of a volume, in the form of the vectors.
func ReadLines(b, key []byte) ([]string, error) {
	k, err := KeyFromBytes(key)
	if err != nil {
		return nil, err
	}
	r, err := Open(bytes.NewReader(b), int64(len(b)), k)
	if err != nil {
		return nil, err
	}
	return treeLines(r)
}

// DirSource is internal/source's, for the tests in this package: that package
// imports this one.
var DirSource func(path string) Source
