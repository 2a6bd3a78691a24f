package layers

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// Merge reads the layers, the lowest first, and returns the tree that they make, without contents: those are read by
// Tree.Contents. Digests, diff ids and sizes are checked. Errors are an *Error, with its layer and the name, or that of
// the context.
func Merge(ctx context.Context, all []Layer, lim Limits) (*Tree, error) {
	lim = lim.withDefaults()
	for i, l := range all {
		if err := CheckMediaType(l.MediaType); err != nil {
			return nil, located(err, i, all)
		}
	}
	m := &merger{lim: lim, meter: meter{lim: lim}, root: impliedDir()}
	t := &Tree{Root: m.root, lim: lim, layers: all}
	for i, l := range all {
		err := m.enter(i)
		if err == nil {
			err = m.layer(ctx, l)
		}
		if err != nil {
			return nil, located(err, i, all)
		}
		t.read = append(t.read, extent{m.stored, m.plain})
	}
	t.sources = m.sources
	t.finish()
	return t, nil
}

// place is a name in a directory.
type place struct {
	dir  *squashfs.Node
	name string
}

// source says where in a layer the content of a file comes from.
type source struct {
	node   *squashfs.Node
	size   int64
	member int32 // of the tar, counted as archive/tar gives them
}

// merger lays one layer over another.
type merger struct {
	lim     Limits
	meter   meter
	root    *squashfs.Node
	sources [][]source // of each layer, in its order
	kept    int        // sources when dead ones were dropped last
	entries int
	names   int64

	// Of the layer at hand.
	number        int32
	member        int32
	stored, plain int64
	parts         []string // memory for split
	// links are the names that the layer has given to files of lower layers. All others that it has given, or has
	// something below, show by the stamps of their nodes.
	links map[place]bool
	// opaque are the directories in which nothing is left of lower layers.
	opaque map[*squashfs.Node]bool
}

// enter begins with a layer.
func (m *merger) enter(number int) error {
	if number >= m.lim.Layers {
		return refuse(ErrTooLarge, "", "the image has more than the %d layers that are taken", m.lim.Layers)
	}
	m.number = int32(number)
	m.links, m.opaque = map[place]bool{}, map[*squashfs.Node]bool{}
	m.sources = append(m.sources, nil)
	return nil
}

// layer reads one layer.
func (m *merger) layer(ctx context.Context, l Layer) error {
	b, err := openBlob(ctx, l, m.meter.compressed, m.meter.uncompressed)
	if err != nil {
		return err
	}
	defer b.close()
	tr := tar.NewReader(&b.plain)
	for m.member = 0; ; m.member++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = m.entry(h, tr)
		}
		if err != nil {
			return b.explain(err)
		}
	}
	if err := b.finish(); err != nil {
		return err
	}
	m.stored, m.plain = b.stored.n, b.plain.n
	m.forgetHidden()
	m.dropDead()
	return nil
}

// Types of members that archive/tar has no names for (GNU tar's tar.h).
const (
	typeLabel     = 'V' // the archive's label
	typeDumpDir   = 'D' // a directory, with the names of what was in it
	typeContinued = 'M' // the rest of a file of another archive
)

// entry takes in one member of a layer.
func (m *merger) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == typeLabel {
		return nil // about the archive, and passed over by Docker and containerd
	}
	if m.entries++; m.entries > m.lim.Entries {
		return refuse(ErrTooLarge, h.Name, "is one entry too many: %d are taken", m.lim.Entries)
	}
	parts, err := split(m.parts, h.Name, m.lim)
	if err != nil {
		return err
	}
	m.parts = parts
	if len(parts) == 0 {
		return m.rootEntry(h)
	}
	dirs, name := parts[:len(parts)-1], parts[len(parts)-1]
	hidden := isHidden(parts)
	if !hidden && isWhiteout(name) {
		return m.whiteout(h, dirs, name)
	}
	way, err := walk(m.root, dirs, m.lim)
	if err != nil {
		return refuse(ErrFormat, h.Name, "cannot be reached: %v", err)
	}
	node, err := m.node(h, content)
	if err != nil {
		return err
	}
	dir, err := m.parent(h.Name, way, name, hidden)
	if err != nil {
		return err
	}
	return m.put(dir, name, node, h.Typeflag == tar.TypeLink)
}

// rootEntry is a member that describes the root.
func (m *merger) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir && h.Typeflag != typeDumpDir {
		return refuse(ErrFormat, h.Name, "has no name, and is no directory")
	}
	n, err := m.node(h, nil)
	if err != nil {
		return err
	}
	describe(m.root, n)
	return nil
}

// parent returns the directory in which way ends, for something called name, and makes what is missing. All on the way
// is what this layer has something in.
func (m *merger) parent(path string, way []step, name string, hidden bool) (*squashfs.Node, error) {
	if err := room(way, name, m.lim); err != nil {
		return nil, refuse(ErrTooLarge, path, "cannot be made: %v", err)
	}
	for i := 1; i < len(way); i++ {
		s, dir := &way[i], way[i-1].node
		if s.node == nil {
			if err := m.implied(path, dir, s, hidden); err != nil {
				return nil, err
			}
		}
	}
	for i := len(way) - 1; i > 0 && !m.stamped(way[i].node); i-- { // if one is, so is all above it
		m.stamp(way[i].node, false)
	}
	return way[len(way)-1].node, nil
}

// implied makes a directory that no entry has named so far. It hides a file of a lower layer, as it does where layers
// are mounted over each other.
func (m *merger) implied(path string, dir *squashfs.Node, s *step, hidden bool) error {
	switch {
	case s.inWay != nil && m.adds(dir, s.name, s.inWay):
		return refuse(ErrFormat, path, "lies in %s, which is a file", quoted(s.name))
	case isWhiteout(s.name) && !hidden:
		return refuse(ErrFormat, path, "lies in a directory with the name of a whiteout")
	case len(s.name) > maxName:
		return refuse(ErrTooLarge, path, "lies in a directory with a name of %d bytes; %d are possible", len(s.name), maxName)
	}
	if m.entries++; m.entries > m.lim.Entries {
		return refuse(ErrTooLarge, path, "is one entry too many: %d are taken", m.lim.Entries)
	}
	s.name = strings.Clone(s.name)
	if err := m.keep(path, len(s.name)); err != nil {
		return err
	}
	s.node = impliedDir()
	dir.Entries[s.name] = s.node
	return nil
}

// put gives a node a name. A directory over a directory describes it anew; everything else replaces what was there.
func (m *merger) put(dir *squashfs.Node, name string, n *squashfs.Node, link bool) error {
	if err := m.keep(name, len(name)); err != nil {
		return err
	}
	name = strings.Clone(name) // of a header, which may have 1 MiB
	switch old := dir.Entries[name]; {
	case old != nil && isDir(old) && isDir(n):
		describe(old, n)
		m.stamp(old, true)
	case link && !m.stamped(n):
		dir.Entries[name] = n
		m.links[place{dir, name}] = true
	default:
		dir.Entries[name] = n
		m.stamp(n, true)
	}
	return nil
}

// keep counts bytes that stay in memory.
func (m *merger) keep(path string, n int) error {
	if m.names += int64(n) + entryCost; m.names > m.lim.Names {
		return refuse(ErrTooLarge, path, "is too much: names, link targets and attributes have more than %d bytes", m.lim.Names)
	}
	return nil
}

// impliedDir returns a directory as nothing describes it.
func impliedDir() *squashfs.Node {
	n := &squashfs.Node{Mode: squashfs.TypeDirectory | 0o755, Mtime: time.Unix(0, 0)}
	n.Entries = map[string]*squashfs.Node{}
	return n
}

// describe gives a directory the attributes of another.
func describe(dir, as *squashfs.Node) {
	dir.Mode, dir.Mtime, dir.Xattrs = as.Mode, as.Mtime, as.Xattrs
}

func isDir(n *squashfs.Node) bool { return n.Mode&squashfs.TypeMask == squashfs.TypeDirectory }
