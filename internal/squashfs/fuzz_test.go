package squashfs

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// script makes a tree of bytes that a fuzzer varies.
type script struct {
	b     []byte
	dirs  []*file
	files []*file
}

func (s *script) next() byte {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return v
}

func (s *script) bytes(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = s.next()
	}
	return out
}

// name draws a name, which is seldom one that cannot be.
func (s *script) name() string {
	b := s.bytes(1 + int(s.next()))
	if s.next()%32 == 0 {
		return string(b)
	}
	b = b[:min(len(b), maxName-4)]
	for i, v := range b {
		if v == 0 || v == '/' || v == '.' {
			b[i] = 'x'
		}
	}
	return string(b)
}

func (s *script) tree() *file {
	root := &file{Node: Node{Mode: TypeDirectory | 0o755}, in: map[string]*file{}}
	s.dirs = []*file{root}
	for n := 0; len(s.b) > 0 && n < 2000; n++ {
		s.entry()
	}
	return root
}

// entry adds one entry to a directory, or many.
func (s *script) entry() {
	d := s.dirs[int(s.next())%len(s.dirs)]
	name := s.name()
	f := &file{Node: Node{UID: uint32(s.next()) << 24, GID: uint32(s.next()), Mtime: time.Unix(int64(s.next())<<24, 0)}}
	f.Mode = uint32(s.next())
	if s.next()%4 == 0 {
		f.Xattrs = map[string][]byte{xattrPrefixes[s.next()%3] + s.name()[:1]: s.bytes(int(s.next()))}
	}
	switch s.next() % 6 {
	case 0:
		f.Mode |= TypeDirectory
		f.in = map[string]*file{}
		s.dirs = append(s.dirs, f)
	case 1:
		f.Mode |= TypeSymlink
		f.Target = s.name()
	case 2:
		if len(s.files) > 0 {
			f = s.files[int(s.next())%len(s.files)]
		}
	case 3:
		for i := range int(s.next()) * 4 {
			d.in[fmt.Sprintf("%s%d", name, i)] = &file{Node: Node{Mode: TypeRegular}, data: s.bytes(i % 3)}
		}
		return
	default:
		f.Mode |= TypeRegular
		f.data = s.content()
		s.files = append(s.files, f)
	}
	d.in[name] = f
}

// content draws a content that ends near the edge of a block.
func (s *script) content() []byte {
	size := int(int8(s.next()))
	if blocks := s.next(); blocks%16 == 0 {
		size += int(blocks>>4) % 4 * blockSize
	}
	b := make([]byte, max(size, 0))
	for range s.next() % 8 {
		if at := int(s.next())*2053 + int(s.next()); at < len(b) {
			b[at] = s.next()
		}
	}
	return b
}

// FuzzTree writes trees and reads them again. Those that cannot be written are refused.
func FuzzTree(f *testing.F) {
	for i := range byte(6) {
		f.Add(random(600, i), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, b []byte, gzip bool) {
		root := (&script{b: b}).tree()
		o := Options{Workers: 1, Level: 1, Compression: Zstd}
		if gzip {
			o.Compression = Gzip
		}
		var m memory
		_, err := Create(context.Background(), &m, o, func(w *Writer) (*Node, error) {
			return root.build(w, map[*file]*Node{})
		})
		if errors.Is(err, ErrNode) {
			return
		}
		must(t, err)
		got, err := parse(m.b)
		if err == nil {
			err = alike(root, got, "", map[*file]*file{})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}
