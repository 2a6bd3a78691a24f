package squashfs

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// smallTree has one of everything.
func smallTree() *file {
	at := func(mode uint32) Node {
		return Node{Mode: mode, UID: 1000, GID: 100, Mtime: time.Unix(1_700_000_000, 0)}
	}
	sparse := &file{Node: at(TypeRegular | 0o644), data: append(make([]byte, 2*blockSize), "after zeros\n"...)}
	twice := &file{Node: at(TypeRegular | 0o755), data: []byte("#!/bin/sh\n")}
	twice.Xattrs = map[string][]byte{"user.note": []byte("linked"), "security.capability": {1, 0, 0, 2}}
	link := &file{Node: at(TypeSymlink | 0o777)}
	link.Target = "bin/run"
	many := &file{Node: at(TypeDirectory | 0o1777), in: map[string]*file{}}
	for i := range 600 {
		f := &file{Node: at(TypeRegular | 0o444), data: fmt.Append(nil, i%10)}
		many.in[fmt.Sprintf("file-%03d", i)] = f
	}
	return &file{Node: at(TypeDirectory | 0o755), in: map[string]*file{
		"bin":      {Node: at(TypeDirectory | 0o755), in: map[string]*file{"run": twice, "again": twice}},
		"empty":    {Node: at(TypeRegular)},
		"link":     link,
		"many":     many,
		"nothing":  {Node: at(TypeDirectory)},
		"sparse":   sparse,
		"\xff\x01": {Node: at(TypeRegular | 0o600), data: bytes.Repeat([]byte("no UTF-8 "), 20_000)},
	}}
}

// TestGolden compares images with what earlier versions wrote. If it fails after a change of the compressor and
// nothing else does, update.
func TestGolden(t *testing.T) {
	t.Parallel()
	empty := &file{Node: Node{Mode: TypeDirectory | 0o755}}
	for name, c := range map[string]struct {
		root *file
		o    Options
	}{
		"empty":     {empty, Options{}},
		"tree":      {smallTree(), Options{MTime: time.Unix(1_700_000_001, 0)}},
		"tree-zstd": {smallTree(), Options{Compression: Zstd, MTime: time.Unix(1_700_000_001, 0)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join("testdata", "golden", name+".sqfs")
			image := write(t, c.o, c.root)
			if *update {
				must(t, os.MkdirAll(filepath.Dir(path), 0o755))
				must(t, os.WriteFile(path, image, 0o644))
			}
			golden, err := os.ReadFile(path)
			must(t, err)
			got, err := parse(golden)
			must(t, err)
			must(t, alike(c.root, got, "", map[*file]*file{}))
			if !bytes.Equal(image, golden) {
				t.Error("other bytes than the golden image")
			}
		})
	}
}
