package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// VerifyOptions says what to verify against. The zero value will do.
type VerifyOptions struct {
	// Checksum is the expected checksum of the whole file, from the signed info
	// file; zero if there is none. Only it finds what someone with the key has
	// altered.
	Checksum Digest
	// Progress, if set, is called often, from several goroutines, with the
	// number of bytes of the sealed file read and their total.
	Progress func(done, total int64)
	// Workers is the number of goroutines; 0 means one a processor.
	Workers int
	// NamesOnly compares an indexed cipher directory's names, types and sizes
	// without reading content.
	NamesOnly bool
}

// Report is what Verify found.
type Report struct {
	ID         ID
	Digest     Digest
	Checksum   Digest   // of the file as it is
	Segments   []Digest // SHA-256 of each SegmentSize bytes
	Entries    int      // names, the root not counted
	PlainBytes int64
	// Unread are the files of an indexed cipher directory that the index knows by
	// id and size only: Verify cannot tell whether they were rolled back.
	Unread int
	// Damaged names the files that cannot be read, at most 1000.
	Damaged []Damage
}

// Damage is a file that cannot be read as it was sealed.
type Damage struct {
	Node uint32
	Path string // its first name
	Err  error
}

const maxDamaged = 1000

// Verify reads the whole file: it decrypts every block of every file, and
// computes the checksum. The error matches ErrIntegrity if something is wrong;
// the report is complete even then. Any other error means that reading failed.
func (r *Reader) Verify(ctx context.Context, opt VerifyOptions) (Report, error) {
	if r.dir != nil {
		return r.dir.verify(ctx, r, opt)
	}
	v := &verification{r: r, opt: opt, damaged: map[uint32]error{}}
	rep := Report{ID: r.ID(), Digest: r.Digest(), Entries: r.Entries()}
	for i := range r.t.nodes {
		if n := &r.t.nodes[i]; n.typ == File && n.size > 0 {
			v.files = append(v.files, uint32(i))
			rep.PlainBytes += n.size
		}
	}
	v.segments = make([]Digest, (r.size+SegmentSize-1)/SegmentSize)
	group, ctx := errgroup.WithContext(ctx)
	workers := opt.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	for range workers {
		group.Go(func() error { return v.run(ctx) })
	}
	if err := group.Wait(); err != nil {
		return rep, err
	}
	rep.Segments, rep.Checksum = v.segments, ChecksumOf(v.segments)
	rep.Damaged = v.report()
	return rep, rep.err(opt.Checksum)
}

func (rep Report) err(want Digest) error {
	if n := len(rep.Damaged); n > 0 {
		more := ""
		if n == maxDamaged {
			more = "at least "
		}
		return fmt.Errorf("%s%d damaged file(s), the first %q: %w", more, n, rep.Damaged[0].Path, rep.Damaged[0].Err)
	}
	if want != (Digest{}) && want != rep.Checksum {
		return fmt.Errorf("%w: it is %s, expected %s", ErrChecksum, rep.Checksum, want)
	}
	return nil
}

// verification is one Verify under way. Workers take segments: each hashes the
// segment and decrypts the blocks that begin in it, so that storage is read once.
type verification struct {
	r        *Reader
	opt      VerifyOptions
	files    []uint32 // nodes with content, in the order of their places
	segments []Digest
	next     atomic.Int64
	done     atomic.Int64
	mu       sync.Mutex
	damaged  map[uint32]error
}

func (v *verification) run(ctx context.Context) error {
	pooled := copyBufs.Get().(*[1 << 20]byte)
	defer copyBufs.Put(pooled)
	buf := pooled[:]
	for {
		i := v.next.Add(1) - 1
		if i >= int64(len(v.segments)) {
			return nil
		}
		from := i * SegmentSize
		to := min(from+SegmentSize, v.r.size)
		if err := v.hash(ctx, i, from, to, buf); err != nil {
			return err
		}
		if err := v.blocks(ctx, from, to, buf); err != nil {
			return err
		}
	}
}

func (v *verification) hash(ctx context.Context, segment, from, to int64, buf []byte) error {
	h := sha256.New()
	for off := from; off < to; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), to-off)]
		if err := readFullAt(v.r.r, b, off); err != nil {
			return fmt.Errorf("read the sealed volume: %w", err)
		}
		h.Write(b)
		off += int64(len(b))
		if v.opt.Progress != nil {
			v.opt.Progress(v.done.Add(int64(len(b))), v.r.size)
		}
	}
	v.segments[segment] = Digest(h.Sum(nil))
	return nil
}

// blocks decrypts the blocks that begin between from and to.
func (v *verification) blocks(ctx context.Context, from, to int64, buf []byte) error {
	nodes := v.r.t.nodes
	first := sort.Search(len(v.files), func(i int) bool {
		n := &nodes[v.files[i]]
		return n.at+cipherSize(n.size) > from
	})
	for _, node := range v.files[first:] {
		n := &nodes[node]
		if n.at >= to {
			break
		}
		off := blocksBefore(from-n.at) * plainBlock
		end := min(blocksBefore(to-n.at)*plainBlock, n.size)
		for off < end {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b := buf[:min(int64(len(buf)), end-off)]
			if _, err := v.r.ReadAt(node, b, off); err != nil {
				if !errors.Is(err, ErrIntegrity) {
					return err
				}
				v.note(node, err)
				break
			}
			off += int64(len(b))
		}
	}
	return nil
}

// blocksBefore returns the number of a file's blocks that begin before an offset in
// its ciphertext.
func blocksBefore(off int64) int64 {
	return max(0, (off-headerSize+cipherBlock-1)/cipherBlock)
}

func (v *verification) note(node uint32, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.damaged[node]; !known && len(v.damaged) < maxDamaged {
		v.damaged[node] = err
	}
}

func (v *verification) report() []Damage {
	var out []Damage
	for node, err := range v.damaged {
		out = append(out, Damage{Node: node, Path: v.r.t.path(node), Err: err})
	}
	slices.SortFunc(out, func(a, b Damage) int { return int(a.Node) - int(b.Node) })
	return out
}
