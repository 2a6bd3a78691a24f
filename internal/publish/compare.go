package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// sameContent reads the input and the published volume, and says how they differ; "" if
// they hold the same names, kinds, permissions, links and bytes. Times are not compared.
func (p *publishing) sameContent(ctx context.Context, st *standing) (why string, err error) {
	if p.Identities == nil {
		return "", fault.New(fault.Usage, errors.New("there is no key here that opens what is published"), "leave --checksum out")
	}
	f, size, err := p.openPublished(st)
	if err != nil {
		return "", fmt.Errorf("open what is published: %w", err)
	}
	defer f.Close()
	ids, err := p.Identities()
	if err != nil {
		return "", err
	}
	key, err := volume.UnwrapKey(f, size, ids...)
	if err != nil {
		return "", err
	}
	defer key.Wipe()
	r, err := volume.OpenOptions{MaxIndex: volume.AnyIndex, Digest: st.Digest}.Open(f, size, key)
	if err != nil {
		return "", err
	}
	defer r.Close()
	bar := p.Progress.Start("comparing "+p.r.Name, 0, 2*p.input.usage.PlainBytes)
	c := comparison{bar: bar, entries: map[string][sha256.Size]byte{}, heads: map[string]int64{}}
	if err = c.read(ctx, p.input); err == nil {
		err = c.compare(ctx, r)
	}
	bar.End(err == nil)
	if err != nil || c.why == "" {
		return "", err
	}
	return fmt.Sprintf("%q differs", c.why), nil
}

// openPublished opens the published volume here, or else at the site.
func (p *publishing) openPublished(st *standing) (transfer.File, int64, error) {
	if f, err := fsx.OpenRegular(p.r.SealedPath); err == nil {
		if id, digest, size, err := idOf(f); err == nil && id.String() == st.VolumeID && digest == st.Digest {
			return f, size, nil
		}
		f.Close()
	}
	f, err := p.site().Open(p.r.pathAtRest())
	if err != nil {
		return nil, 0, err
	}
	_, _, size, err := idOf(f)
	if err != nil {
		f.Close()
	}
	return f, size, err
}

// comparison holds what one tree has against another.
type comparison struct {
	bar     progress.Bar
	done    int64
	entries map[string][sha256.Size]byte // by path, what only the first has so far
	heads   map[string]int64             // by path, how much of a file goes into its digest last, as it is known last
	why     string
}

// read takes in the first tree.
func (c *comparison) read(ctx context.Context, tree volume.Source) error {
	return c.walk(ctx, tree, func(path string, sum [sha256.Size]byte) { c.entries[path] = sum })
}

// compare goes through the second.
func (c *comparison) compare(ctx context.Context, tree volume.Source) error {
	err := c.walk(ctx, tree, func(path string, sum [sha256.Size]byte) {
		if was, ok := c.entries[path]; !ok || was != sum {
			c.differs(path)
		}
		delete(c.entries, path)
	})
	for path := range c.entries {
		c.differs(path)
	}
	return err
}

func (c *comparison) differs(path string) {
	if c.why == "" || path < c.why {
		c.why = path
	}
}

// walk gives each path of a tree with the digest of what is there.
func (c *comparison) walk(ctx context.Context, tree volume.Source, found func(string, [sha256.Size]byte)) error {
	type node struct {
		path string
		sum  [sha256.Size]byte
	}
	var nodes []node
	return tree.Walk(ctx, func(e volume.Entry) (uint32, error) {
		path := "."
		if len(nodes) > 0 {
			path = nodes[e.Parent].path + "/" + e.Name
		}
		if e.IsLink {
			found(path, nodes[e.Link].sum)
			return e.Link, nil
		}
		sum, err := c.sum(ctx, path, e)
		if err != nil {
			return 0, fmt.Errorf("%q: %w", path, err)
		}
		nodes = append(nodes, node{path, sum})
		found(path, sum)
		return uint32(len(nodes) - 1), nil
	})
}

// sum returns the digest of one entry but for its times.
func (c *comparison) sum(ctx context.Context, path string, e volume.Entry) (out [sha256.Size]byte, err error) {
	h := sha256.New()
	fmt.Fprintf(h, "%d %o %q\n", e.Attr.Type, e.Attr.Mode, e.Target)
	switch {
	case e.Attr.Type != volume.File:
	case e.Late != nil:
		c.heads[path] = e.Late.HeadSize
		var head []byte
		if head, err = e.Late.Write(ctx, counted{h, c}); err == nil {
			_, err = h.Write(head)
		}
	default:
		err = c.content(ctx, h, e, c.heads[path])
	}
	return [sha256.Size]byte(h.Sum(nil)), err
}

// content hashes a file, its first bytes last.
func (c *comparison) content(ctx context.Context, h io.Writer, e volume.Entry, first int64) error {
	r, err := e.Open()
	if err != nil {
		return err
	}
	var head bytes.Buffer
	in := reader{ctx, r}
	if _, err = io.CopyN(&head, in, first); err == nil || errors.Is(err, io.EOF) {
		_, err = io.Copy(counted{h, c}, in)
	}
	_, _ = head.WriteTo(h)
	return errors.Join(err, r.Close())
}

// counted shows how much has been read.
type counted struct {
	io.Writer
	c *comparison
}

func (w counted) Write(b []byte) (int, error) {
	w.c.done += int64(len(b))
	w.c.bar.Update(w.c.done, 0)
	return w.Writer.Write(b)
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(b)
}
