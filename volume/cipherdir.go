package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// CipherDir is a plain gocryptfs v2 cipher directory, as the stock
// `gocryptfs -masterkey=stdin` writes it. It is a Source.
//
// Unlike a sealed volume it has no integrity as a tree: each block proves that
// it was written with the key at its place in its file, but whoever can write
// the directory can remove, rename, exchange, truncate and roll back files, and
// make holes in them. WriteIndex ends that; OpenIndexed reads what has an index.
// gocryptfs.conf is ignored.
type CipherDir struct {
	path    string
	codec   *codec
	damaged func(path string, err error)
	special func(path string, err error)
	tails   bool // files' last blocks are looked at, and left out if they were not written whole
}

// maxDepth is how deeply directories may be nested. Each takes a descriptor while
// what lies in it is read, and the paths of all of them take memory, by the square.
const maxDepth = 2048

// errDepth: directories that are nested more deeply.
var errDepth = fmt.Errorf("%w: directories are nested more than %d deep", ErrPath, maxDepth)

// WithoutSpecial returns c as a Source that leaves out sockets, pipes and devices, and
// tells left of them.
func (c *CipherDir) WithoutSpecial(left func(path string, err error)) *CipherDir {
	out := *c
	out.special = left
	return &out
}

// OpenCipherDir opens the cipher directory at path. ErrPath if it is none. One in
// which there is nothing needs no gocryptfs.diriv: whoever made it may have been
// killed before it had one.
func OpenCipherDir(path string, key Key) (*CipherDir, error) {
	c, err := newCodec(key)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if _, err := readDirIV(root); err != nil {
		if names, nerr := cipherNames(root); nerr != nil || len(names) > 0 || !errors.Is(err, errNoDirIV) {
			return nil, fmt.Errorf("%w: %s is no cipher directory: %w", ErrPath, path, errors.Join(err, nerr))
		}
	}
	return &CipherDir{path: path, codec: c}, nil
}

// ExtractCipherDir writes the plaintext of a cipher directory to dir, by the
// rules of Reader.Extract. Read CipherDir for what is not protected. With
// opt.Damaged set, what a killed job left torn is reported, and the rest saved.
func ExtractCipherDir(ctx context.Context, cipherDir string, key Key, dir string, opt ExtractOptions) error {
	c, err := OpenCipherDir(cipherDir, key)
	if err != nil {
		return err
	}
	c.damaged = opt.Damaged
	return extract(ctx, c, dir, 0, opt)
}

// cipherWalk is one walk of a cipher directory.
type cipherWalk struct {
	*CipherDir
	ctx   context.Context
	emit  func(Entry, cipherPlace) (uint32, error)
	nodes map[inode]uint32 // files with several names
}

// cipherPlace is what an entry's ciphertext is.
type cipherPlace struct {
	iv   []byte   // Dir: its diriv; nil if that is missing or damaged
	file *os.File // File: the ciphertext, open
	size int64    // File: its length
	path string   // File: its path
}

// Walk implements Source. Entries come sorted by plaintext name.
func (c *CipherDir) Walk(ctx context.Context, emit func(Entry) (uint32, error)) error {
	return c.walk(ctx, func(e Entry, _ cipherPlace) (uint32, error) { return emit(e) })
}

func (c *CipherDir) walk(ctx context.Context, emit func(Entry, cipherPlace) (uint32, error)) error {
	root, err := os.OpenRoot(c.path)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &cipherWalk{CipherDir: c, ctx: ctx, emit: emit, nodes: map[inode]uint32{}}
	return w.dir(root, "", 0, "", 0)
}

// cipherEntry is a directory entry with both of its names.
type cipherEntry struct{ cipher, plain string }

// bad passes a failure to the damage report, if there is one: one entry that cannot be read
// is no reason to lose the others.
func (w *cipherWalk) bad(path string, err error) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	err = fmt.Errorf("cipher directory: %q: %w", path, err)
	switch {
	case w.special != nil && errors.Is(err, ErrSpecial):
		w.special(path, err)
	case w.damaged != nil:
		w.damaged(path, err)
	default:
		return err
	}
	return nil
}

// cipherNames lists a directory's encrypted names: all but gocryptfs's own files.
func cipherNames(root *os.Root) ([]string, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	return slices.DeleteFunc(names, IsInternalName), err
}

func (w *cipherWalk) dir(root *os.Root, name string, parent uint32, path string, depth int) error {
	fi, err := root.Stat(".")
	if err != nil {
		return w.bad(path, err)
	}
	iv, ivErr := readDirIV(root)
	if ivErr != nil {
		iv = nil
	}
	self, err := w.emit(Entry{Parent: parent, Name: name, Attr: AttrOf(Dir, statOf(fi))}, cipherPlace{iv: iv})
	if err != nil {
		return err
	}
	names, err := cipherNames(root)
	if err != nil {
		err = w.bad(path, err)
	}
	if err != nil || len(names) == 0 && (ivErr == nil || errors.Is(ivErr, errNoDirIV)) {
		return err
	}
	if ivErr != nil {
		return w.bad(path, ivErr)
	}
	entries, err := w.decrypt(root, names, iv, path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if err := w.entry(root, e, self, joinPath(path, e.plain), depth); err != nil {
			return err
		}
	}
	return nil
}

// decrypt returns a directory's entries with their plaintext names.
func (w *cipherWalk) decrypt(root *os.Root, names []string, iv []byte, path string) ([]cipherEntry, error) {
	var out []cipherEntry
	for _, n := range names {
		encoded, err := n, error(nil)
		if strings.HasPrefix(n, longPrefix) {
			encoded, err = readLongName(root, n)
		}
		var plain string
		if err == nil {
			plain, err = w.codec.plainName(encoded, iv)
		}
		if err != nil {
			if err := w.bad(joinPath(path, n), err); err != nil {
				return nil, err
			}
			continue
		}
		out = append(out, cipherEntry{n, plain})
	}
	slices.SortFunc(out, func(a, b cipherEntry) int { return strings.Compare(a.plain, b.plain) })
	return out, nil
}

// IsInternalName reports whether a name is one of gocryptfs's own files: gocryptfs.diriv (and what an
// interrupted rmdir leaves of one), gocryptfs.conf, and names of long names.
func IsInternalName(name string) bool {
	return strings.HasPrefix(name, dirIVName) || name == confName ||
		(strings.HasPrefix(name, longPrefix) && strings.HasSuffix(name, longSuffix))
}

// readLongName reads the encrypted name of a long-named entry. Its hash must be
// the entry's, and a short name is not accepted in this form, so that no two
// entries can have one name.
func readLongName(root *os.Root, entry string) (string, error) {
	const longest = (maxName + 1 + 2) / 3 * 4
	b, err := readSmall(root, entry+longSuffix, longest)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: the file with the long name is missing", ErrName)
	}
	if err != nil {
		return "", err
	}
	if len(b) <= maxName || hashLongName(string(b)) != entry {
		return "", fmt.Errorf("%w: a long name is not the one it should be", ErrName)
	}
	return string(b), nil
}

// errNoDirIV: a directory's diriv is missing or was not written to its end. It is an ErrName.
var errNoDirIV = fmt.Errorf("%w: its %s is missing or damaged", ErrName, dirIVName)

func readDirIV(root *os.Root) ([]byte, error) {
	b, err := readSmall(root, dirIVName, dirIVSize)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && (len(b) != dirIVSize || allZero(b))) {
		return nil, errNoDirIV
	}
	return b, err
}

// readSmall reads a regular file of at most limit bytes; ErrName if it is none.
func readSmall(root *os.Root, name string, limit int) ([]byte, error) {
	f, fi, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi.Size() > int64(limit) {
		return nil, fmt.Errorf("%w: %s is too long", ErrName, name)
	}
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}

// openRegular opens a file that must be a regular one, whatever somebody has put
// in its place: os.Root follows no link out of the directory, and O_NONBLOCK
// waits on no pipe.
func openRegular(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", name, ErrSpecial)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

func (w *cipherWalk) entry(root *os.Root, e cipherEntry, parent uint32, path string, depth int) error {
	fi, err := root.Lstat(e.cipher)
	if err != nil {
		return w.bad(path, err)
	}
	switch fi.Mode().Type() {
	case fs.ModeDir:
		if depth >= maxDepth {
			return w.bad(path, errDepth)
		}
		sub, err := root.OpenRoot(e.cipher)
		if err != nil {
			return w.bad(path, err)
		}
		defer sub.Close()
		return w.dir(sub, e.plain, parent, path, depth+1)
	case fs.ModeSymlink:
		return w.symlink(root, e, fi, parent, path)
	case 0:
		return w.file(root, e, parent, path)
	}
	return w.bad(path, SpecialError(path, fi.Mode()))
}

func (w *cipherWalk) symlink(root *os.Root, e cipherEntry, fi fs.FileInfo, parent uint32, path string) error {
	sealed, err := root.Readlink(e.cipher)
	if err != nil {
		return w.bad(path, err)
	}
	target, err := w.codec.plainTarget(sealed)
	if err != nil {
		return w.bad(path, err)
	}
	attr := AttrOf(Symlink, statOf(fi))
	attr.Nlink, attr.Size = 1, int64(len(target))
	_, err = w.emit(Entry{Parent: parent, Name: e.plain, Attr: attr, Target: target}, cipherPlace{})
	return err
}

func (w *cipherWalk) file(root *os.Root, e cipherEntry, parent uint32, path string) error {
	f, fi, err := openRegular(root, e.cipher)
	if err != nil {
		return w.bad(path, err)
	}
	st := statOf(fi)
	c := &cipherFile{f: f, codec: w.codec}
	out := Entry{Parent: parent, Name: e.plain, Attr: AttrOf(File, st)}
	out.Open = func() (io.ReadCloser, error) { c.taken = true; return c, nil }
	defer func() {
		if !c.taken {
			_ = f.Close()
		}
	}()
	id := inode{st.Dev, st.Ino}
	if st.Nlink > 1 {
		out.Link, out.IsLink = w.nodes[id]
	}
	if out.Attr.Size, err = plainSize(st.Size); err == nil && w.tails && !out.IsLink {
		err = w.codec.checkTail(f, st.Size)
	}
	if err != nil {
		if err := w.bad(path, err); err != nil {
			return err
		}
		out.Attr.Size = max(0, (st.Size-headerSize)/cipherBlock*plainBlock)
	}
	node, err := w.emit(out, cipherPlace{file: f, size: st.Size, path: path})
	if st.Nlink > 1 {
		w.nodes[id] = node
	}
	return err
}

// checkTail opens a file's last block if it is no whole one. A gocryptfs that was killed while it wrote it can have left
// any length, which then need not show that it is torn. ErrBlock if it does not open.
func (c *codec) checkTail(f *os.File, size int64) error {
	full, tail := (size-headerSize)/cipherBlock, (size-headerSize)%cipherBlock
	if size <= headerSize || tail == 0 {
		return nil
	}
	var head [headerSize]byte
	block := make([]byte, tail)
	err := readFullAt(f, head[:], 0)
	if err == nil {
		err = readFullAt(f, block, size-tail)
	}
	if errors.Is(err, ErrSize) {
		return ErrChanged
	}
	if err != nil {
		return err
	}
	id, err := parseFileHeader(head[:])
	if err != nil {
		return fmt.Errorf("%w: its header", ErrBlock)
	}
	var aad additional
	if _, err := c.content.Open(nil, block[:nonceSize], block[nonceSize:], aad.set(uint64(full), id)); err != nil {
		return fmt.Errorf("%w: block %d, its last", ErrBlock, full)
	}
	return nil
}

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// cipherFile decrypts a gocryptfs file from its beginning.
type cipherFile struct {
	f       *os.File
	codec   *codec
	taken   bool // by whoever called Open, who closes f
	id      fileID
	aad     additional
	block   uint64
	sealed  []byte
	plain   []byte
	pending []byte // decrypted, not yet read
	err     error  // comes after pending
}

// Close closes the file.
func (c *cipherFile) Close() error { return c.f.Close() }

// Read implements io.Reader.
func (c *cipherFile) Read(p []byte) (int, error) {
	for len(c.pending) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		c.fill()
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

// fill decrypts the next blocks up to the first bad one.
func (c *cipherFile) fill() {
	if c.sealed == nil {
		var head [headerSize]byte
		if _, c.err = io.ReadFull(c.f, head[:]); c.err != nil {
			return
		}
		if c.id, c.err = parseFileHeader(head[:]); c.err != nil {
			return
		}
		c.sealed = make([]byte, readChunk*cipherBlock)
		c.plain = make([]byte, 0, readChunk*plainBlock)
	}
	n, err := io.ReadFull(c.f, c.sealed)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	c.err = err
	c.pending = c.plain[:0]
	for raw := c.sealed[:n]; len(raw) > 0; c.block++ {
		b := raw[:min(cipherBlock, len(raw))]
		raw = raw[len(b):]
		if len(b) == cipherBlock && allZero(b) { // gocryptfs's holes
			c.pending = append(c.pending, zeroBlock[:]...)
			continue
		}
		if len(b) <= overhead {
			c.err = fmt.Errorf("%w: block %d is cut short", ErrBlock, c.block)
			return
		}
		out, err := c.codec.content.Open(c.pending, b[:nonceSize], b[nonceSize:], c.aad.set(c.block, c.id))
		if err != nil {
			c.err = fmt.Errorf("%w: block %d", ErrBlock, c.block)
			return
		}
		c.pending = out
	}
}

var zeroBlock [plainBlock]byte
