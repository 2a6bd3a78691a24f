package volume_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

var seed = flag.Uint64("seed", 0, "seed of the generated trees; 0 draws one")

// generator makes directory trees with everything that a volume carries.
type generator struct {
	t     *testing.T
	r     *rand.Rand
	root  string
	dirs  []genDir
	files []string
}

// genDir is a directory and the length of its path when its names are encrypted.
type genDir struct {
	path   string
	cipher int
}

// generate makes a tree from a seed, which a failing test prints.
func generate(t *testing.T, seed uint64) string {
	t.Helper()
	t.Logf("go test ./volume -run '^%s$' -seed %d", strings.Split(t.Name(), "/")[0], seed)
	g := &generator{t: t, r: rand.New(rand.NewPCG(seed, 0)), root: filepath.Join(t.TempDir(), "tree")}
	g.check(os.Mkdir(g.root, 0o755))
	g.dirs = []genDir{{g.root, 0}}
	for range 10 + g.r.IntN(20) {
		g.dir()
	}
	for range 30 + g.r.IntN(20) {
		g.file()
	}
	for range 15 {
		g.link()
	}
	g.attributes()
	return g.root
}

func (g *generator) check(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// pick returns one of the values, or one up to limit.
func (g *generator) pick(limit int, values ...int) int {
	if i := g.r.IntN(len(values) + 2); i < len(values) {
		return values[i]
	}
	return g.r.IntN(limit)
}

// name is any name that Linux allows, often with a length at an edge.
func (g *generator) name() string {
	b := make([]byte, max(1, g.pick(255, 1, 15, 16, 17, 143, 175, 176, 254, 255)))
	for i := range b {
		b[i] = byte(1 + g.r.IntN(255))
		if b[i] == '/' || g.r.IntN(3) > 0 {
			b[i] = "abcXYZ019-_. \n'\"$\\*"[g.r.IntN(19)]
		}
	}
	if s := string(b); s != "." && s != ".." {
		return s
	}
	return "-"
}

// place returns a new path somewhere in the tree. Recent directories are
// preferred, so that some branches become deep, but no path too long to unpack.
func (g *generator) place() genDir {
	for {
		parent := g.dirs[g.r.IntN(len(g.dirs))]
		if g.r.IntN(2) == 0 {
			parent = g.dirs[len(g.dirs)-1]
		}
		d := genDir{path: filepath.Join(parent.path, "x"), cipher: parent.cipher + 256}
		d.path = parent.path + "/" + g.name()
		if _, err := os.Lstat(d.path); err != nil && d.cipher < 3000 && len(d.path) < 3000 {
			return d
		}
	}
}

func (g *generator) dir() {
	d := g.place()
	g.check(os.Mkdir(d.path, 0o755))
	g.dirs = append(g.dirs, d)
}

func (g *generator) file() {
	size := g.pick(20_000, 0, 1, 2, 4095, 4096, 4097, 8191, 8192, 8193, // blocks
		461, 462, 463, 4542, 4543, 4558, 4559, // tar blocks
		64*4096-1, 64*4096, 64*4096+1, 65*4096) // what is sealed and read at a time
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(g.r.Uint32())
	}
	path := g.place().path
	g.check(os.WriteFile(path, b, 0o600))
	g.files = append(g.files, path)
}

func (g *generator) link() {
	path := g.place().path
	if g.r.IntN(2) == 0 {
		g.check(os.Link(g.files[g.r.IntN(len(g.files))], path))
		return
	}
	target := strings.Repeat(g.name()+"/", 12)
	length := min(1+g.pick(len(target), 3038)%len(target), 3039) // the longest that is possible
	g.check(os.Symlink(target[:length], path))
}

// attributes gives everything a mode and a time, the innermost first.
func (g *generator) attributes() {
	var paths []string
	g.check(filepath.WalkDir(g.root, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}))
	slices.Reverse(paths)
	for _, path := range paths {
		fi, err := os.Lstat(path)
		g.check(err)
		if fi.Mode()&fs.ModeSymlink == 0 {
			g.check(unix.Chmod(path, uint32(g.r.IntN(0o10000))))
		}
		at := unix.Timespec{Sec: int64(g.pick(2_000_000_000, -1, 0, 1, 1<<31, 1<<33, -1<<31)), Nsec: int64(g.pick(1e9, 0, 999_999_999))}
		g.check(unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{}, at}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// diskLines describes a tree on disk in the form of the vectors.
func diskLines(t *testing.T, root string) (out []string) {
	t.Helper()
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(root, path)
		name, kind, rest := indieEscape(rel), "directory", ""
		switch fi.Mode().Type() {
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			kind, rest = "symbolic-link", " -> "+indieEscape(target)
		case 0:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			kind, rest = "file", fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
			if f, ok := first[st.Ino]; ok {
				rest = " = " + f
			} else {
				first[st.Ino] = name
			}
		}
		out = append(out, fmt.Sprintf("%s %s %04o %d.%09d%s", name, kind, st.Mode&0o7777, st.Mtim.Sec, st.Mtim.Nsec, rest))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestIndependentReading seals generated trees, and opens them with the
// independent reader, and with tar, age and gocryptfs: every byte, name, mode,
// time and link must be the same.
func TestIndependentReading(t *testing.T) {
	t.Parallel()
	from := *seed
	if from == 0 {
		from = uint64(time.Now().UnixNano())
	}
	for i := range uint64(3) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			readIndependently(t, generate(t, from+i))
		})
	}
}

func readIndependently(t *testing.T, tree string) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	s, err := volume.Seal(context.Background(), &sealed, source.Dir(tree), volume.SealOptions{Recipients: []age.Recipient{id.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := indieRead(sealed.Bytes(), id)
	if err != nil {
		t.Fatalf("the independent reader: %v", err)
	}
	if v.digest != s.Digest.String() || v.checksum != s.Checksum.String() || !bytes.Equal(v.key, s.Key.Bytes()) {
		t.Errorf("digest %s, checksum %s", v.digest, v.checksum)
	}
	want := diskLines(t, tree)
	if len(v.lines) != len(want) {
		t.Errorf("%d entries, want %d", len(v.lines), len(want))
	}
	for i, line := range v.lines {
		if i < len(want) && line != want[i] {
			t.Errorf("got  %s\nwant %s", line, want[i])
		}
	}
	unpacked := volume.Unpack(t, sealed.Bytes())
	key := stockKey(t, filepath.Join(unpacked, "keys.age"), id, s.ID)
	for name, bin := range volume.GocryptfsBinaries(t) {
		t.Run(name, func(t *testing.T) {
			volume.CompareTrees(t, tree, volume.MountGocryptfs(t, bin, filepath.Join(unpacked, "volume"), key, "-ro"), false)
		})
	}
}

// stockKey opens keys.age with the age command.
func stockKey(t *testing.T, file string, id *age.X25519Identity, want volume.ID) volume.Key {
	t.Helper()
	identity := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(identity, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("age", "--decrypt", "-i", identity, file).CombinedOutput()
	if err != nil {
		t.Fatalf("age: %v\n%s", err, out)
	}
	var doc struct{ Format, Volume, Key string }
	if err := json.Unmarshal(out, &doc); err != nil || doc.Volume != want.String() {
		t.Fatalf("keys.age names volume %s, %v", doc.Volume, err)
	}
	raw := make([]byte, len(doc.Key)/2)
	if _, err := fmt.Sscanf(doc.Key, "%x", &raw); err != nil {
		t.Fatal(err)
	}
	key, err := volume.KeyFromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestSegmentEdges: volumes that end just before, at, and just behind the edge
// of a segment.
func TestSegmentEdges(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "zeros")
	seal := func(size int64) (volume.Sealed, []byte) {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
		sealed := bytes.NewBuffer(make([]byte, 0, volume.SegmentSize+1<<20))
		s, err := volume.Seal(context.Background(), sealed, source.Dir(file), volume.SealOptions{Recipients: []age.Recipient{id.Recipient()}})
		if err != nil {
			t.Fatal(err)
		}
		return s, sealed.Bytes()
	}
	const blocks = 16_000
	probe, _ := seal(blocks * 4096)
	around := probe.Size - volume.CipherSize(blocks*4096) // what is not content
	for _, target := range []int64{volume.SegmentSize - 512, volume.SegmentSize, volume.SegmentSize + 512} {
		plain := target - around - 18
		plain -= (plain + 4127) / 4128 * 32
		s, b := seal(plain)
		if s.Size != target || len(s.Segments) != int((target+volume.SegmentSize-1)/volume.SegmentSize) {
			t.Errorf("%d bytes in %d segments, wanted %d", s.Size, len(s.Segments), target)
		}
		v, err := indieRead(b, id)
		if err != nil || v.checksum != s.Checksum.String() {
			t.Errorf("%d bytes: the independent reader says %v", target, err)
		}
		r, err := volume.Open(bytes.NewReader(b), s.Size, s.Key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Verify(context.Background(), volume.VerifyOptions{Checksum: s.Checksum}); err != nil {
			t.Errorf("%d bytes: %v", target, err)
		}
	}
}
