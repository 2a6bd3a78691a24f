package layers

import (
	"archive/tar"
	"context"
	"errors"
	"io"

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// Contents reads the layers again, in order, and hands over the content of each file that Merge left in the tree, and
// that is not empty, once. each need not read it to its end; its error is returned as it is. Nothing of what was handed
// over may be used if Contents returns an error: digests are known at a layer's end. ErrChanged is that of a layer that
// is not what Merge read.
func (t *Tree) Contents(ctx context.Context, each takes) error {
	for i, sources := range t.sources {
		if len(sources) == 0 {
			continue // nothing of the layer is left
		}
		if err := t.contentsOf(ctx, i, sources, each); err != nil {
			return err
		}
	}
	return nil
}

// takes is what takes a content.
type takes = func(n *squashfs.Node, r io.Reader, size int64) error

// contentsOf hands over the contents in one layer.
func (t *Tree) contentsOf(ctx context.Context, i int, want []source, each takes) error {
	fail := func(err error) error { return located(changed(err), i, t.layers) }
	b, err := openBlob(ctx, t.layers[i], atMost(t.read[i].stored), atMost(t.read[i].plain))
	if err != nil {
		return fail(err)
	}
	defer b.close()
	tr := tar.NewReader(&b.plain)
	for member := int32(0); len(want) > 0; member++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return fail(refuse(ErrFormat, "", "it ends earlier than before"))
		}
		if err != nil {
			return fail(b.explain(err))
		}
		if member != want[0].member {
			continue
		}
		s := want[0]
		want = want[1:]
		if h.Size != s.size {
			return fail(refuse(ErrFormat, h.Name, "is not as long as before"))
		}
		r := &content{r: tr}
		err = each(s.node, r, s.size)
		switch {
		case r.err != nil:
			return fail(b.explain(r.err))
		case err != nil:
			return err
		}
	}
	if err := b.finish(); err != nil {
		return fail(err)
	}
	return nil
}

// content is the content of a file, and remembers what went wrong with it.
type content struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// atMost returns a bound of a second reading.
func atMost(most int64) func(int64) error {
	return func(n int64) error {
		if most -= n; most < 0 {
			return refuse(ErrFormat, "", "it is longer than before")
		}
		return nil
	}
}

// changed returns an error of the second reading: where the layer is no more what it was in the first, ErrChanged.
func changed(err error) error {
	var p *problem
	if errors.As(err, &p) {
		return &problem{kind: ErrChanged, cause: p.cause, path: p.path, text: "it changed while it was read: " + p.text}
	}
	return err
}
