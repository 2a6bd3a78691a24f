package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// indexedDir is the cipher directory behind a Reader.
type indexedDir struct {
	dirPlaces
	root  *os.Root
	tree  *tree
	codec *codec
	first []uint32 // by node: its first name; nothing for the root
}

// OpenIndexed opens a cipher directory that has a sealed index: index is what
// WriteIndex wrote, id the volume's. Compare Digest with a signed one. Close the
// Reader after use.
//
// The content of files without digests (see DirIndex.Unread) could have been
// rolled back, exchanged for an older version of the same file, or zeroed in
// blocks since; of all others that is found.
func OpenIndexed(dir string, index []byte, id ID, key Key) (*Reader, error) {
	return OpenOptions{}.OpenIndexed(dir, index, id, key)
}

// OpenIndexed is the function OpenIndexed with options.
func (o OpenOptions) OpenIndexed(dir string, index []byte, id ID, key Key) (*Reader, error) {
	c, err := newCodec(key)
	if err != nil {
		return nil, err
	}
	if len(index) < indexHeaderSize+tagSize {
		return nil, fmt.Errorf("%w: it is too short", ErrIndex)
	}
	head := index[:indexHeaderSize]
	h, err := parseHeader(dirMagic, head, footer{id: id, length: int64(len(index))})
	if err != nil {
		return nil, err
	}
	if err := o.checkPacked(h); err != nil {
		return nil, err
	}
	sum := newDigest(id)
	sum.Write(index)
	digest := Digest(sum.Sum(nil))
	if err := o.checkDigest(digest); err != nil {
		return nil, err
	}
	packed, err := c.dir.Open(nil, h.nonce[:], index[indexHeaderSize:], head)
	if err != nil {
		return nil, ErrIndex
	}
	if err := o.checkInflated(h); err != nil {
		return nil, err
	}
	d := &indexedDir{codec: c, dirPlaces: dirPlaces{extra: map[uint32]int64{}}}
	if d.tree, err = inflate(packed, h, &d.dirPlaces); err != nil {
		return nil, err
	}
	d.first = make([]uint32, len(d.tree.nodes))
	for i := len(d.tree.names) - 1; i >= 0; i-- {
		d.first[d.tree.names[i].node] = uint32(i)
	}
	if d.root, err = os.OpenRoot(dir); err != nil {
		return nil, err
	}
	return &Reader{size: int64(len(index)), head: h, digest: digest, codec: c, t: d.tree, dir: d, closer: d.root}, nil
}

// CipherPaths are the names that belong into an indexed cipher directory, with
// slashes, each with the length of the file, or -1 for a directory and -2 for a
// symbolic link. (Not among them: gocryptfs.diriv and the files that hold long
// names, which a Reader does not need.) It is nil for a sealed volume.
func (r *Reader) CipherPaths() map[string]int64 {
	if r.dir == nil {
		return nil
	}
	out := make(map[string]int64, len(r.t.names))
	for _, d := range r.t.names {
		size := int64(-2)
		switch n := &r.t.nodes[d.node]; n.typ {
		case Dir:
			size = -1
		case File:
			size = r.dir.size(d.node)
		}
		out[r.dir.namePath(d)] = size
	}
	return out
}

// Unread returns the number of files that an index knows by id and size only; 0 for a
// sealed volume.
func (r *Reader) Unread() (n int) {
	if r.dir == nil {
		return 0
	}
	for i := range r.t.nodes {
		if f := &r.t.nodes[i]; f.typ == File && f.size > 0 && f.at < 0 {
			n++
		}
	}
	return n
}

// UnreadPaths names those files, at most limit of them.
func (r *Reader) UnreadPaths(limit int) (out []string) {
	if r.dir == nil {
		return nil
	}
	for i := range r.t.nodes {
		if f := &r.t.nodes[i]; f.typ == File && f.size > 0 && f.at < 0 && len(out) < limit {
			out = append(out, r.dir.plainPath(uint32(i)))
		}
	}
	return out
}

// size returns the length of a file's ciphertext.
func (d *indexedDir) size(node uint32) int64 {
	return cipherSize(d.tree.nodes[node].size) + d.extra[node]
}

// path returns a node's place in the cipher directory.
func (d *indexedDir) path(node uint32) string {
	if node == 0 {
		return "."
	}
	return d.namePath(d.tree.names[d.first[node]])
}

func (d *indexedDir) namePath(e dirent) string {
	var parts []string
	for {
		name, _ := d.codec.cipherName(d.tree.name(e), d.marks[e.parent][:])
		parts = append(parts, name)
		if e.parent == 0 {
			slices.Reverse(parts)
			return strings.Join(parts, "/")
		}
		e = d.tree.names[d.first[e.parent]]
	}
}

var segmentBuffers = sync.Pool{New: func() any { return new([headerSize + segBlocks*cipherBlock]byte) }}

// readAt reads want bytes of a file, whose ciphertext is opened anew each time:
// there may be millions.
func (d *indexedDir) readAt(r *Reader, node uint32, p []byte, want int, off int64) (done int, err error) {
	f, _, err := openRegular(d.root, d.path(node))
	if err != nil {
		return 0, fmt.Errorf("node %d: %w", node, missing(err))
	}
	defer f.Close()
	raw := segmentBuffers.Get().(*[headerSize + segBlocks*cipherBlock]byte)
	defer segmentBuffers.Put(raw)
	b := readBuffers.Get().(*readBuffer)
	defer readBuffers.Put(b)
	for done < want {
		got, err := d.readSegment(r, f, node, p[done:want], off+int64(done), raw[:], b)
		done += got
		if err != nil {
			return done, fmt.Errorf("node %d: %w", node, err)
		}
	}
	if want < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// missing turns "no such file" and the like into a class of integrity failure;
// other failures of the file system stay what they are.
func missing(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) { // a special file, or a path that leads out of the directory
		return ErrMissing
	}
	for _, e := range []syscall.Errno{syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP, syscall.ENXIO, syscall.EINVAL} {
		if errno == e {
			return ErrMissing
		}
	}
	return err
}

// readSegment reads from off to the end of its segment, at most len(p) bytes.
func (d *indexedDir) readSegment(r *Reader, f *os.File, node uint32, p []byte, off int64, raw []byte, b *readBuffer) (int, error) {
	n := &d.tree.nodes[node]
	seg := off / (segBlocks * plainBlock)
	from, to := segment(n.size, seg)
	raw = raw[:to-from]
	if err := readFullAt(f, raw, from); err != nil {
		return 0, err
	}
	if n.at >= 0 && d.digests[n.at+seg] != sha256.Sum256(raw) {
		return 0, fmt.Errorf("%w: it is not the content that was indexed", ErrBlock)
	}
	id := fileID(d.marks[node])
	if seg == 0 {
		if got, err := parseFileHeader(raw); err != nil || got != id {
			return 0, fmt.Errorf("%w: it is not the header of this file", ErrBlock)
		}
		raw = raw[headerSize:]
	}
	block := off / plainBlock
	raw = raw[(block-seg*segBlocks)*cipherBlock:]
	done, skip := 0, int(off%plainBlock)
	for ; len(raw) > 0 && done < len(p); block++ {
		c := raw[:min(cipherBlock, len(raw))]
		raw = raw[len(c):]
		if len(c) == cipherBlock && allZero(c) { // gocryptfs's holes
			done += copy(p[done:], zeroBlock[skip:])
			skip = 0
			continue
		}
		got, err := r.readBlock(c, uint64(block), id, p[done:], skip, b)
		if err != nil {
			return done, err
		}
		done, skip = done+got, 0
	}
	return done, nil
}

// verify compares the directory with its index, name by name, and reads every
// file unless opt says otherwise.
func (d *indexedDir) verify(ctx context.Context, r *Reader, opt VerifyOptions) (Report, error) {
	v := &dirVerification{indexedDir: d, r: r, opt: opt, ctx: ctx}
	v.rep = Report{ID: r.ID(), Digest: r.Digest(), Entries: r.Entries(), Unread: r.Unread()}
	for i := range d.tree.nodes {
		if d.tree.nodes[i].typ == File {
			v.rep.PlainBytes += d.tree.nodes[i].size
		}
	}
	for i := range d.tree.nodes {
		if ctx.Err() != nil {
			return v.rep, context.Cause(ctx)
		}
		if err := v.node(uint32(i)); err != nil {
			return v.rep, err
		}
	}
	for _, e := range d.tree.names {
		if err := v.furtherName(e); err != nil {
			return v.rep, err
		}
	}
	return v.rep, v.rep.err(Digest{})
}

// dirVerification is one verification of an indexed cipher directory.
type dirVerification struct {
	*indexedDir
	r    *Reader
	opt  VerifyOptions
	ctx  context.Context
	rep  Report
	done int64
	buf  [segBlocks * plainBlock]byte
}

// note keeps an integrity failure and passes any other on.
func (v *dirVerification) note(node uint32, path string, err error) error {
	if err == nil || !errors.Is(err, ErrIntegrity) {
		return err
	}
	if len(v.rep.Damaged) < maxDamaged {
		v.rep.Damaged = append(v.rep.Damaged, Damage{Node: node, Path: path, Err: err})
	}
	return nil
}

// plainPath names a node for a report, quicker than tree.path.
func (d *indexedDir) plainPath(node uint32) string {
	var parts []string
	for node != 0 {
		e := d.tree.names[d.first[node]]
		parts = append(parts, d.tree.name(e))
		node = e.parent
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

func (v *dirVerification) node(node uint32) error {
	var err error
	switch v.tree.nodes[node].typ {
	case Dir:
		err = v.dir(node)
	case File:
		err = v.file(node)
	case Symlink:
		err = v.symlink(node)
	}
	return v.note(node, v.plainPath(node), err)
}

// dir looks for what is in a directory and not in the index.
func (v *dirVerification) dir(node uint32) error {
	f, err := v.root.OpenFile(v.path(node), os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return missing(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range v.tree.children(node) {
		name, _ := v.codec.cipherName(v.tree.name(e), v.marks[node][:])
		known[name] = true
	}
	slices.Sort(names)
	for _, name := range names {
		if IsInternalName(name) || known[name] {
			continue
		}
		plain, err := v.codec.plainName(name, v.marks[node][:])
		if err != nil {
			plain = name
		}
		if err := v.note(node, joinPath(v.plainPath(node), plain), ErrAdded); err != nil {
			return err
		}
	}
	return nil
}

func (v *dirVerification) symlink(node uint32) error {
	sealed, err := v.root.Readlink(v.path(node))
	if err != nil {
		return missing(err)
	}
	if target, err := v.codec.plainTarget(sealed); err != nil || target != v.tree.target(node) {
		return fmt.Errorf("%w: a symbolic link points elsewhere", ErrBlock)
	}
	return nil
}

func (v *dirVerification) file(node uint32) error {
	f, fi, err := openRegular(v.root, v.path(node))
	if err != nil {
		return missing(err)
	}
	_ = f.Close()
	if fi.Size() != v.size(node) {
		return fmt.Errorf("%w: %d bytes of ciphertext, not %d", ErrSize, fi.Size(), v.size(node))
	}
	if v.opt.NamesOnly {
		return nil
	}
	for off, size := int64(0), v.tree.nodes[node].size; off < size; {
		if v.ctx.Err() != nil {
			return context.Cause(v.ctx)
		}
		n, err := v.r.ReadAt(node, v.buf[:min(int64(len(v.buf)), size-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
		v.done += int64(n)
		if v.opt.Progress != nil {
			v.opt.Progress(v.done, v.rep.PlainBytes)
		}
	}
	return nil
}

// furtherName checks that a file's names beyond the first are of the same length.
func (v *dirVerification) furtherName(e dirent) error {
	if v.tree.nodes[e.node].typ != File || v.tree.nlink(e.node) < 2 || v.tree.names[v.first[e.node]] == e {
		return nil
	}
	path := joinPath(v.plainPath(e.parent), v.tree.name(e))
	fi, err := v.root.Lstat(v.namePath(e))
	switch {
	case err != nil:
		err = missing(err)
	case !fi.Mode().IsRegular():
		err = ErrMissing
	case fi.Size() != v.size(e.node):
		err = ErrSize
	}
	return v.note(e.node, path, err)
}
