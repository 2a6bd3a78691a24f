package layers

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// member is one entry of a layer.
type member struct {
	tar.Header
	content string
	records [][2]string // of pax, which archive/tar does not write
}

var day = time.Unix(1_700_000_000, 0)

func made(kind byte, name, target, content string) member {
	h := tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o644, ModTime: day, Size: int64(len(content))}
	if kind == tar.TypeDir {
		h.Mode = 0o755
	}
	return member{Header: h, content: content}
}

func dir(name string) member            { return made(tar.TypeDir, name+"/", "", "") }
func file(name, content string) member  { return made(tar.TypeReg, name, "", content) }
func link(name, target string) member   { return made(tar.TypeSymlink, name, target, "") }
func hard(name, target string) member   { return made(tar.TypeLink, name, target, "") }
func gone(name string) member           { return made(tar.TypeReg, name, "", "") }
func device(name string) member         { return made(tar.TypeChar, name, "", "") }
func (m member) mode(mode int64) member { m.Mode = mode; return m }
func (m member) pax(k, v string) member {
	records := map[string]string{k: v}
	for k, v := range m.PAXRecords {
		records[k] = v
	}
	m.PAXRecords, m.Format = records, tar.FormatPAX
	return m
}

// pack returns the tar of members.
func pack(t testing.TB, members ...member) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if m.records != nil {
			must(t, w.Flush())
			packRecords(t, &b, m.records)
		}
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatalf("%q: %v", m.Name, err)
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// packRecords writes a pax header with any records.
func packRecords(t testing.TB, b *bytes.Buffer, records [][2]string) {
	t.Helper()
	var data strings.Builder
	for _, r := range records {
		rest := fmt.Sprintf(" %s=%s\n", r[0], r[1])
		n := len(rest) + 1
		for len(fmt.Sprint(n))+len(rest) != n {
			n++
		}
		fmt.Fprintf(&data, "%d%s", n, rest)
	}
	m := file("pax", data.String())
	header := pack(t, m)
	header = header[:len(header)-1024]
	retype(header, 'x')
	b.Write(header)
}

// retype changes the kind in a member's header.
func retype(header []byte, kind byte) {
	header[156] = kind
	copy(header[148:156], "        ")
	sum := 0
	for _, c := range header[:512] {
		sum += int(c)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// stored returns the layer that a blob is, of a tar.
func stored(blob, plain []byte, mediaType string) Layer {
	return Layer{Digest: digestOf(blob), DiffID: digestOf(plain), MediaType: mediaType, Size: int64(len(blob)),
		Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil }}
}

const (
	ociTar  = "application/vnd.oci.image.layer.v1.tar"
	ociGzip = ociTar + "+gzip"
	ociZstd = ociTar + "+zstd"
)

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// layer packs members into a gzip layer.
func layer(t testing.TB, members ...member) Layer {
	t.Helper()
	plain := pack(t, members...)
	return stored(gzipped(plain), plain, ociGzip)
}

// listing is the whole of a tree, one line an entry, hard links as "= first name".
func listing(t testing.TB, tree *Tree) string {
	t.Helper()
	contents := map[*squashfs.Node]string{}
	must(t, tree.Contents(context.Background(), func(n *squashfs.Node, r io.Reader, size int64) error {
		b, err := io.ReadAll(r)
		if _, twice := contents[n]; twice || int64(len(b)) != size || size == 0 {
			t.Errorf("content of %d bytes where %d were announced, before: %t", len(b), size, twice)
		}
		contents[n] = string(b)
		return err
	}))
	return listed(t, tree.Root, contents)
}

// listed is a listing of a tree, with the contents of its files.
func listed(t testing.TB, root *squashfs.Node, contents map[*squashfs.Node]string) string {
	t.Helper()
	var out strings.Builder
	names := map[*squashfs.Node]string{}
	var walk func(path string, n *squashfs.Node)
	walk = func(path string, n *squashfs.Node) {
		for _, name := range slices.Sorted(func(yield func(string) bool) {
			for name := range n.Entries {
				if !yield(name) {
					return
				}
			}
		}) {
			child, at := n.Entries[name], path+name
			if first, ok := names[child]; ok {
				fmt.Fprintf(&out, "%s = %s\n", at, first)
				continue
			}
			names[child] = at
			switch child.Mode & squashfs.TypeMask {
			case squashfs.TypeDirectory:
				fmt.Fprintf(&out, "%s/ %o\n", at, child.Mode&0o7777)
				walk(at+"/", child)
			case squashfs.TypeSymlink:
				fmt.Fprintf(&out, "%s -> %s\n", at, child.Target)
			case squashfs.TypeRegular:
				fmt.Fprintf(&out, "%s %o %q\n", at, child.Mode&0o7777, contents[child])
			default:
				t.Errorf("%s has mode %o", at, child.Mode)
			}
		}
	}
	walk("", root)
	return out.String()
}

func must(t testing.TB, err error) {
	if err != nil {
		t.Helper()
		t.Fatal(err)
	}
}

func merged(t testing.TB, layers ...Layer) *Tree {
	t.Helper()
	tree, err := Merge(context.Background(), layers, Limits{})
	must(t, err)
	return tree
}

// headerOf is a global header of pax that says something of all members.
func headerOf(kind byte) tar.Header {
	return tar.Header{Typeflag: kind, Name: "pax_global_header",
		PAXRecords: map[string]string{"comment": "x", "path": "all/the/same"}}
}

func zstded(b []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(b, nil)
}

func (m member) at(t time.Time) member { m.ModTime, m.Format = t, tar.FormatPAX; return m }

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}
