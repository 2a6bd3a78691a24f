package layers

import (
	"slices"

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// Marks in Node.Mode, above the 16 bits of st_mode, so that a node takes no more memory while layers are merged. They
// are gone when the tree is handed out.
const (
	lostXattrs = 1 << 16 // attributes were left out
	seen       = 1 << 17 // the node is in the tree
	described  = 1 << 18 // the layer of the stamp describes it, other than a directory that it only has something in
	stampAt    = 19      // the number of the layer that gave it, or had something in it, last
	stampMask  = (maxLayers-1)<<stampAt | described
	maxLayers  = 1 << (32 - stampAt)
)

// stamp marks a node as of the layer at hand.
func (m *merger) stamp(n *squashfs.Node, describes bool) {
	n.Mode = n.Mode&^stampMask | uint32(m.number)<<stampAt
	if describes {
		n.Mode |= described
	}
}

// stamped reports whether a node is of the layer at hand.
func (m *merger) stamped(n *squashfs.Node) bool { return n.Mode>>stampAt == uint32(m.number) }

// adds reports whether the layer at hand has given a name to a node, or has something below it.
func (m *merger) adds(dir *squashfs.Node, name string, n *squashfs.Node) bool {
	return m.stamped(n) || m.links[place{dir, name}]
}

// dropDead drops the sources of files that are in the tree no more, if there may be many: they hold their nodes.
func (m *merger) dropDead() {
	m.sources[m.number] = slices.Clone(m.sources[m.number]) // of its length
	total := 0
	for _, sources := range m.sources {
		total += len(sources)
	}
	if m.number == 0 {
		m.kept = total
	}
	if total <= 2*m.kept {
		return
	}
	look(m.root)
	m.kept = keepSeen(m.sources)
	unlook(m.root)
}

// keepSeen keeps the sources of nodes that were seen, and returns how many there are.
func keepSeen(sources [][]source) (kept int) {
	for i, of := range sources {
		left := slices.DeleteFunc(of, func(s source) bool { return s.node.Mode&seen == 0 })
		if len(left) < len(of) {
			left = slices.Clone(left)
		}
		sources[i] = left
		kept += len(left)
	}
	return kept
}

// look marks what is in the tree as seen.
func look(n *squashfs.Node) {
	n.Mode |= seen
	for _, child := range n.Entries {
		if child.Mode&seen == 0 {
			look(child)
		}
	}
}

// unlook is the end of look.
func unlook(n *squashfs.Node) {
	n.Mode &^= seen
	for _, child := range n.Entries {
		if child.Mode&seen != 0 {
			unlook(child)
		}
	}
}

// unmark clears all marks of what was seen.
func unmark(n *squashfs.Node) {
	n.Mode &= 1<<16 - 1
	for _, child := range n.Entries {
		if child.Mode&seen != 0 {
			unmark(child)
		}
	}
}
