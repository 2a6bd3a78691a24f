package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// download is a blob on its way. It goes on where a connection broke:
//
//	GET /v2/NAME/blobs/sha256:...                        200, all of it     ──▶ breaks at byte 1,000
//	GET, Range: bytes=1000-4999                          206, the rest      ──▶ appended
//	                                                     200, all of it     ──▶ 1,000 bytes passed over, the rest appended
//
// The digest is of what was put together, so that it does not matter who sent
// which part.
type download struct {
	d     v1.Descriptor
	fresh func() io.Writer // makes where the blob goes, from its first byte on
	moved func(n int64)    // told of bytes that came; negative ones are to come again

	to    io.Writer
	sum   hash.Hash
	have  int64
	parts int  // connections that brought something
	whole bool // the server knows no Range
}

func (b *download) reset() {
	b.moved(-b.have)
	b.to, b.sum, b.have, b.parts = b.fresh(), sha256.New(), 0, 0
}

// fetch downloads b from wherever it is to be had, and checks it.
func (r *Remote) fetch(ctx context.Context, b *download) error {
	ctx = context.WithValue(ctx, bulk{}, true)
	b.reset()
	return r.eachSource(ctx, func(s *source) error {
		b.whole = false
		err := b.from(ctx, s, r)
		if errors.Is(err, ErrBlob) && b.parts > 1 { // of several senders' parts, perhaps: once more, in one piece
			b.reset()
			err = b.from(ctx, s, r)
		}
		if errors.Is(err, ErrBlob) {
			b.reset()
		}
		return err
	})
}

// from downloads what is missing from s, in as many parts as it takes.
func (b *download) from(ctx context.Context, s *source, r *Remote) error {
	tries := r.patience(layerTries, "fetching from "+s.host()).Begin()
	for b.have < b.d.Size {
		n, err := b.part(ctx, s)
		if n > 0 {
			b.parts++
			tries.Reset()
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil || !again(err) {
			return err
		}
		if err := tries.Pause(ctx, err); err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(b.sum.Sum(nil)); b.d.Digest.Algorithm != "sha256" || got != b.d.Digest.Hex {
		return fmt.Errorf("%w: a blob of digest sha256:%s where %s was asked for", ErrBlob, got, b.d.Digest)
	}
	return nil
}

// part makes one connection, and returns how many bytes it brought.
func (b *download) part(ctx context.Context, s *source) (int64, error) {
	start := b.have
	if b.whole {
		start = 0
	}
	rest := ""
	if start > 0 {
		rest = fmt.Sprintf("bytes=%d-%d", start, b.d.Size-1)
	}
	resp, err := s.get(ctx, "blobs/"+b.d.Digest.String(), "Range", rest)
	if e := status(err); e != nil && e.Code == http.StatusRequestedRangeNotSatisfiable && !b.whole {
		b.whole = true
		return b.part(ctx, s)
	}
	if err != nil {
		return 0, blobError{err}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		start = 0
	} else if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", start)) {
		b.whole = true // it does not send what it was asked for
		return 0, io.ErrUnexpectedEOF
	}
	// A server may send the beginning of a range (RFC 9110, section 15.3.7): the rest is asked for again.
	short := resp.StatusCode == http.StatusPartialContent && resp.ContentLength > 0 && start+resp.ContentLength < b.d.Size
	if n := resp.ContentLength; n >= 0 && start+n != b.d.Size && !short {
		if isPage(resp) {
			return 0, errWebPage
		}
		return 0, fmt.Errorf("%w: %s has %d bytes there, and %d by the manifest", ErrBlob, b.d.Digest, start+n,
			b.d.Size)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, b.have-start); err != nil {
		return 0, unexpected(err)
	}
	return b.take(resp.Body)
}

// take appends what body has, up to the blob's size, beyond which nothing may come.
func (b *download) take(body io.Reader) (n int64, err error) {
	n, err = io.CopyN(b, body, b.d.Size-b.have)
	if err != nil {
		return n, unexpected(err)
	}
	if extra, _ := io.ReadFull(body, make([]byte, 1)); extra > 0 {
		return n, fmt.Errorf("%w: %s is longer there than its %d bytes by the manifest", ErrBlob, b.d.Digest,
			b.d.Size)
	}
	return n, nil
}

// Write implements io.Writer for take.
func (b *download) Write(p []byte) (int, error) {
	n, err := b.to.Write(p)
	b.sum.Write(p[:n])
	b.have += int64(n)
	b.moved(int64(n))
	return n, err
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// small fetches a blob into memory: a config.
func (r *Remote) small(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	var buf *bytes.Buffer
	b := &download{d: d, moved: func(int64) {}, fresh: func() io.Writer { buf = new(bytes.Buffer); return buf }}
	if err := r.fetch(ctx, b); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
