package fusetest

import (
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

// Tree is a root directory whose files are named by their numbers.
type Tree struct {
	Files  []string // contents
	Mode   uint32   // of all files; 0 is 0644, and 0100000 is 0
	Broken error    // of every read
	Reads  func()   // is called by every read; may be nil
}

func (f *Tree) Len() int { return len(f.Files) + 1 }

func (f *Tree) Attr(node uint32) volume.Attr {
	if node == 0 {
		return volume.Attr{Type: volume.Dir, Mode: 0o755, Nlink: 2, Mtime: time.Unix(1, 0)}
	}
	mode := f.Mode
	if mode == 0 {
		mode = 0o644
	}
	return volume.Attr{
		Type: volume.File, Mode: mode &^ 0o100000, Nlink: 1, Mtime: time.Unix(1, 0), Size: int64(len(f.Files[node-1])),
	}
}

func (f *Tree) Readlink(uint32) string { return "" }

func (f *Tree) Dirents(node uint32) []volume.Dirent {
	var list []volume.Dirent
	for i := range f.Files {
		list = append(list, volume.Dirent{Name: strconv.Itoa(i), Node: uint32(i) + 1, Type: volume.File})
	}
	return list
}

func (f *Tree) Lookup(_ uint32, name string) (uint32, bool) {
	i, err := strconv.Atoi(name)
	return uint32(i) + 1, err == nil && i >= 0 && i < len(f.Files)
}

func (f *Tree) ReadAt(node uint32, p []byte, off int64) (int, error) {
	if f.Reads != nil {
		f.Reads()
	}
	if f.Broken != nil {
		return 0, f.Broken
	}
	return strings.NewReader(f.Files[node-1]).ReadAt(p, off)
}
