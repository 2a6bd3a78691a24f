package volume

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strings"
	"time"
)

// node is one directory, file or symbolic link of an open volume, 32 bytes.
type node struct {
	at    int64 // File: offset of the ciphertext; Dir: first of its names; Symlink: target in texts
	size  int64 // File: plaintext bytes; Dir: number of names; Symlink: length of the target
	sec   int64
	nsec  uint32
	mode  uint16
	typ   Type
	nlink uint8 // no more than 255: the rest is in tree.links
}

// dirent is one name, 12 bytes. All texts lie in one string, a name's behind its length.
type dirent struct {
	text   uint32
	node   uint32
	parent uint32
}

// tree is an index in memory. Its names are grouped by directory and sorted.
type tree struct {
	nodes []node
	names []dirent
	texts string
	links map[uint32]uint32 // by node: its links beyond 255
}

func (t *tree) name(d dirent) string {
	from := d.text + 1
	return t.texts[from : from+uint32(t.texts[d.text])]
}

func (t *tree) addLink(n uint32) {
	if t.nodes[n].nlink < math.MaxUint8 {
		t.nodes[n].nlink++
		return
	}
	if t.links == nil {
		t.links = map[uint32]uint32{}
	}
	t.links[n]++
}

func (t *tree) nlink(n uint32) uint32 { return uint32(t.nodes[n].nlink) + t.links[n] }

// children returns the names of a directory, nothing for other nodes.
func (t *tree) children(n uint32) []dirent {
	if int64(n) >= int64(len(t.nodes)) || t.nodes[n].typ != Dir {
		return nil
	}
	return t.names[t.nodes[n].at : t.nodes[n].at+t.nodes[n].size]
}

func (t *tree) lookup(dir uint32, name string) (uint32, bool) {
	kids := t.children(dir)
	i := sort.Search(len(kids), func(i int) bool { return t.name(kids[i]) >= name })
	if i == len(kids) || t.name(kids[i]) != name {
		return 0, false
	}
	return kids[i].node, true
}

func (t *tree) target(n uint32) string {
	s := t.nodes[n]
	return t.texts[s.at : s.at+s.size]
}

// path names a node for a report: its first name, from the root. It is slow.
func (t *tree) path(n uint32) string {
	var parts []string
	for n != 0 {
		i := slices.IndexFunc(t.names, func(d dirent) bool { return d.node == n })
		parts = append(parts, t.name(t.names[i]))
		n = t.names[i].parent
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// link groups the names by directory (a counting sort), sorts them, and refuses
// duplicates.
func (t *tree) link() error {
	t.group()
	for i := range t.nodes {
		kids := t.children(uint32(i))
		byName := func(a, b dirent) int { return strings.Compare(t.name(a), t.name(b)) }
		if !slices.IsSortedFunc(kids, byName) {
			slices.SortFunc(kids, byName)
		}
		for j := 1; j < len(kids); j++ {
			if t.name(kids[j-1]) == t.name(kids[j]) {
				return fmt.Errorf("%w: %w: a directory holds one name twice", ErrIndex, ErrPath)
			}
		}
	}
	return nil
}

// group brings the names of each directory together, in the directories' order, if they are not.
func (t *tree) group() {
	total := int64(0)
	for i := range t.nodes {
		if n := &t.nodes[i]; n.typ == Dir {
			n.at = total
			total += n.size
		}
	}
	if slices.IsSortedFunc(t.names, func(a, b dirent) int { return cmp.Compare(a.parent, b.parent) }) {
		return
	}
	next := make([]uint32, len(t.nodes))
	for i := range t.nodes {
		next[i] = uint32(t.nodes[i].at)
	}
	grouped := make([]dirent, len(t.names))
	for _, d := range t.names {
		grouped[next[d.parent]] = d
		next[d.parent]++
	}
	t.names = grouped
}

// indexParser reads index records.
type indexParser struct {
	r      *bufio.Reader
	left   *io.LimitedReader
	h      indexHeader
	t      *tree
	texts  strings.Builder
	end    int64 // where the last file's ciphertext ends
	record uint64
	buf    []byte
	places *dirPlaces // of a cipher directory; nil for a sealed volume
}

func newIndexParser(r io.Reader, h indexHeader) *indexParser {
	limited := &io.LimitedReader{R: r, N: int64(h.inflated)}
	p := &indexParser{r: bufio.NewReaderSize(limited, 64<<10), left: limited, h: h, t: &tree{}}
	// What grows is copied, and held twice meanwhile. The header bounds all of it, and memory that is reserved and
	// not written costs nothing: an index that holds less than its header says is refused.
	p.t.nodes = make([]node, 0, h.entries+1)
	p.t.names = make([]dirent, 0, h.entries)
	p.texts.Grow(int(h.inflated))
	return p
}

func (p *indexParser) parse() error {
	root := node{typ: Dir, nlink: 2}
	if err := p.attr(&root); err != nil {
		return err
	}
	if err := p.place(&root); err != nil {
		return err
	}
	p.t.nodes = append(p.t.nodes, root)
	for p.record = 1; p.record <= p.h.entries; p.record++ {
		if err := p.entry(); err != nil {
			return err
		}
	}
	if _, err := p.r.ReadByte(); !errors.Is(err, io.EOF) || p.left.N != 0 {
		return errors.New("it does not end where its header says")
	}
	// The limit hides surplus bytes: ask for one more.
	if n, err := p.left.R.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return errors.New("it is longer than its header says")
	}
	p.t.texts = p.texts.String()
	return nil
}

// entry reads one record: type, parent, name, and what the type needs.
func (p *indexParser) entry() error {
	typ, err := p.r.ReadByte()
	if err != nil {
		return err
	}
	parent, err := p.earlier(Dir)
	if err != nil {
		return err
	}
	d := dirent{node: uint32(len(p.t.nodes)), parent: parent}
	if d.text, err = p.name(); err != nil {
		return err
	}
	p.t.nodes[parent].size++
	if Type(typ) == recordLink {
		d.node, err = p.link()
	} else {
		err = p.node(Type(typ), d)
	}
	p.t.names = append(p.t.names, d)
	return err
}

func (p *indexParser) link() (uint32, error) {
	n, err := p.earlier(File)
	if err == nil {
		p.t.addLink(n)
	}
	return n, err
}

// earlier reads the number of a node that must have come before and be of the
// given type: a name's directory, a link's file.
func (p *indexParser) earlier(typ Type) (uint32, error) {
	n, err := binary.ReadUvarint(p.r)
	if err != nil {
		return 0, err
	}
	if n >= uint64(len(p.t.nodes)) || p.t.nodes[n].typ != typ {
		return 0, fmt.Errorf("%w: node %d is no earlier %v", ErrPath, n, typ)
	}
	return uint32(n), nil
}

func (p *indexParser) node(typ Type, d dirent) error {
	n := node{typ: typ, nlink: 1}
	if err := p.attr(&n); err != nil {
		return err
	}
	var err error
	switch typ {
	case Dir:
		n.nlink = 2
		p.t.addLink(d.parent)
	case File:
		err = p.content(&n)
	case Symlink:
		n.at, n.size, err = p.target()
	default:
		err = fmt.Errorf("unknown type %d", typ)
	}
	if err == nil {
		err = p.place(&n)
	}
	p.t.nodes = append(p.t.nodes, n)
	return err
}

// content reads a file's size and place. Places are given as the distance from
// the end of the file before, so that they cannot overlap.
func (p *indexParser) content(n *node) error {
	size, err := p.number(maxFileSize)
	n.size = int64(size)
	if err != nil || size == 0 || p.places != nil {
		return err
	}
	gap, err := p.number(maxFileSize)
	if err != nil {
		return err
	}
	n.at = p.end + int64(gap)
	p.end = n.at + cipherSize(n.size)
	if n.at%tarBlock != 0 || p.end > p.h.offset {
		return errors.New("a file lies at an impossible place")
	}
	return nil
}

func (p *indexParser) attr(n *node) error {
	mode, err := p.number(0o7777)
	if err != nil {
		return err
	}
	if n.sec, err = binary.ReadVarint(p.r); err != nil {
		return err
	}
	nsec, err := p.number(uint64(time.Second) - 1)
	n.mode, n.nsec = uint16(mode), uint32(nsec)
	return err
}

func (p *indexParser) number(limit uint64) (uint64, error) {
	n, err := binary.ReadUvarint(p.r)
	if err == nil && n > limit {
		err = fmt.Errorf("%d where at most %d can stand", n, limit)
	}
	return n, err
}

// name reads a name into texts, behind its length, and returns where that lies.
func (p *indexParser) name() (uint32, error) {
	n, err := p.number(maxName)
	if err != nil {
		return 0, err
	}
	at := p.texts.Len()
	p.texts.WriteByte(byte(n))
	return uint32(at), p.text(n, checkName)
}

// target reads a symbolic link's target into texts and returns where it lies.
func (p *indexParser) target() (at, length int64, err error) {
	n, err := p.number(maxTarget)
	if err != nil {
		return 0, 0, err
	}
	at = int64(p.texts.Len())
	return at, int64(n), p.text(n, checkTarget)
}

// text reads a text of n bytes into texts and checks it.
func (p *indexParser) text(n uint64, check func(string) error) error {
	p.buf = slices.Grow(p.buf[:0], int(n))[:n]
	if _, err := io.ReadFull(p.r, p.buf); err != nil {
		return err
	}
	at := p.texts.Len()
	p.texts.Write(p.buf)
	return check(p.texts.String()[at:])
}
