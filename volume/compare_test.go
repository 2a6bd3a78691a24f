package volume

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// describe gives one line for each entry of a tree. Hard links are described by
// the first path of their file.
func sum(b []byte) [32]byte { return sha256.Sum256(b) }

func describe(t testing.TB, dir string, nanos bool) map[string]string {
	t.Helper()
	out, first := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := statOf(fi)
		line := fmt.Sprintf("%v %d", fi.Mode(), st.Mtim.Sec)
		if nanos {
			line += fmt.Sprintf(".%09d", st.Mtim.Nsec)
		}
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d links, sha256 %x", st.Nlink, sum(b))
			if f, ok := first[st.Ino]; ok {
				line += " = " + f
			}
			first[st.Ino] = rel
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		out[rel] = line
		return nil
	})
	must(t, err)
	return out
}

func compareTrees(t testing.TB, want, got string, nanos bool) {
	t.Helper()
	w, g := describe(t, want, nanos), describe(t, got, nanos)
	for _, path := range slices.Sorted(maps.Keys(w)) {
		if w[path] != g[path] {
			t.Errorf("%.60q:\nwant %.200q\ngot  %.200q", path, w[path], g[path])
		}
		delete(g, path)
	}
	for path := range g {
		t.Errorf("unexpected %.60q", path)
	}
	if len(w) < 2 {
		t.Error("nothing was compared")
	}
}
