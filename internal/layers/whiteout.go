package layers

import (
	"archive/tar"
	"strings"

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// Names that say something of lower layers (the image specification's layer.md, and aufs, where they are from).
const (
	whiteoutPrefix = ".wh."         // .wh.NAME: NAME of lower layers is not there
	opaqueName     = ".wh..wh..opq" // nothing of lower layers is in this directory
	hiddenPrefix   = ".wh..wh."     // in the root: aufs's own files, which hard links may name
)

func isWhiteout(name string) bool { return strings.HasPrefix(name, whiteoutPrefix) }

// isHidden reports whether a path belongs to aufs's own files, as Docker wrote them into layers once.
func isHidden(parts []string) bool {
	return strings.HasPrefix(parts[0], hiddenPrefix) && (len(parts) > 1 || parts[0] != opaqueName)
}

// forgetHidden removes aufs's own files, when the layer that has them is read.
func (m *merger) forgetHidden() {
	for name := range m.root.Entries {
		if isWhiteout(name) {
			delete(m.root.Entries, name)
		}
	}
}

// whiteout removes what lower layers have, and leaves what this layer adds, before it or after it.
func (m *merger) whiteout(h *tar.Header, dirs []string, name string) error {
	name = strings.TrimPrefix(name, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return refuse(ErrFormat, h.Name, "is a whiteout of nothing")
	}
	way, err := walk(m.root, dirs, m.lim)
	if err != nil {
		return refuse(ErrFormat, h.Name, "cannot be reached: %v", err)
	}
	dir := way[len(way)-1].node
	if m.number == 0 || dir == nil {
		return nil // there is nothing below
	}
	if whiteoutPrefix+name == opaqueName {
		m.clear(dir)
		return nil
	}
	if node := dir.Entries[name]; node != nil {
		m.remove(dir, name, node)
	}
	return nil
}

// remove takes a name of lower layers away. Of a directory that this layer has something in, that stays.
func (m *merger) remove(dir *squashfs.Node, name string, node *squashfs.Node) {
	switch {
	case !m.adds(dir, name, node):
		delete(dir.Entries, name)
	case isDir(node):
		m.clear(node)
		if node.Mode&described == 0 {
			describe(node, impliedDir())
			m.stamp(node, false)
		}
	}
}

// clear removes what lower layers have in a directory. What is added to it later is of this layer, so
// that once is enough, however many whiteouts there are.
func (m *merger) clear(dir *squashfs.Node) {
	if m.opaque[dir] {
		return
	}
	m.opaque[dir] = true
	for name, node := range dir.Entries {
		m.remove(dir, name, node)
	}
}
