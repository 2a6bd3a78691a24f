package results

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// indexed makes the node one that had no time to seal: its cipher directory has
// an index, which the receipt vouches for.
func (j *job) indexed(n *node, more func() bool) string {
	j.t.Helper()
	receipt := *n.receipt
	id, key, err := volume.ReadKey(bytes.NewReader(n.keys), j.owner)
	check(j.t, err)
	dir := j.killed(n)
	c, err := volume.OpenCipherDir(filepath.Join(dir, jobdir.CipherDirName), key)
	check(j.t, err)
	var index bytes.Buffer
	x, err := c.WriteIndex(j.t.Context(), &index, id, volume.DirIndexOptions{More: more})
	check(j.t, err)
	check(j.t, os.WriteFile(filepath.Join(dir, "output.index"), index.Bytes(), 0o600))
	receipt.Output = manifest.Output{File: jobdir.CipherDirName, VolumeID: n.origin.VolumeID, Until: "scratch",
		Index: &manifest.Index{File: "output.index", Digest: manifest.Digest(x.Digest), Size: x.Size, Files: x.Files, Unread: x.Unread}}
	j.sign(n, dir, &receipt)
	return dir
}

func (j *job) sign(n *node, dir string, receipt *manifest.Receipt) {
	j.t.Helper()
	jws, err := manifest.SignJWS(manifest.TypeReceipt, n.key, receipt)
	check(j.t, err)
	check(j.t, os.WriteFile(filepath.Join(dir, jobdir.ReceiptName), []byte(jws), 0o600))
}

// cipherFile is the only file in the root of a node's cipher directory: result.
func cipherFile(t *testing.T, dir string) string {
	t.Helper()
	var found string
	list, err := os.ReadDir(filepath.Join(dir, jobdir.CipherDirName))
	check(t, err)
	for _, e := range list {
		if e.Type().IsRegular() && !volume.IsInternalName(e.Name()) {
			found = filepath.Join(dir, jobdir.CipherDirName, e.Name())
		}
	}
	check(t, os.Chmod(found, 0o600))
	return found
}

func one(t *testing.T, nodes []Node, err error) Node {
	t.Helper()
	if err != nil || len(nodes) != 1 {
		t.Fatalf("Fetch = %+v, %v", nodes, err)
	}
	return nodes[0]
}

func TestIndexed(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	dir := j.indexed(j.newNode("cn1"), nil)
	check(t, os.WriteFile(filepath.Join(dir, jobdir.CipherDirName, "added"), []byte("x"), 0o600))
	out := t.TempDir()
	nodes, err := j.fetch(transfer.Local{}, out)
	n := one(t, nodes, err)
	if n.Err != nil || !n.Indexed || n.Sealed || len(n.Damaged) != 0 || len(n.Unread) != 0 || len(n.Changed) != 1 ||
		n.Changed[0].Path != "added" {
		t.Fatalf("%+v", n)
	}
	opened(t, n.Dir, "cn1")
	if _, err := os.Lstat(filepath.Join(n.Dir, "added")); err == nil {
		t.Error("what was added was opened")
	}
	nodes, err = j.fetch(transfer.Local{}, out)
	if n := one(t, nodes, err); !n.Before || n.Err != nil || n.Dir == "" {
		t.Errorf("again: %+v", n)
	}
}

func TestIndexedUnread(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	j.indexed(j.newNode("cn1"), func() bool { return false })
	nodes, err := j.fetch(transfer.Local{}, t.TempDir())
	n := one(t, nodes, err)
	if n.Err != nil || !n.Indexed || !slices.Equal(n.Unread, []string{"result"}) {
		t.Fatalf("%+v", n)
	}
	opened(t, n.Dir, "cn1")
}

// alterations are what can be done to indexed results after the job.
var alterations = map[string]struct {
	do   func(t *testing.T, dir string)
	want string
	all  bool // even recovering opens it only as nobody vouches for
}{
	"a file is altered": {do: func(t *testing.T, dir string) { flipLast(t, cipherFile(t, dir)) }, want: "altered"},
	"a file is cut":     {do: func(t *testing.T, dir string) { check(t, os.Truncate(cipherFile(t, dir), 20)) }, want: "size differs"},
	"a file is gone":    {do: func(t *testing.T, dir string) { check(t, os.Remove(cipherFile(t, dir))) }, want: "missing"},
	"a file is a link": {do: func(t *testing.T, dir string) {
		f := cipherFile(t, dir)
		check(t, errors.Join(os.Remove(f), os.Symlink("/etc/passwd", f)))
	}, want: "missing"},
	"the index is altered": {do: func(t *testing.T, dir string) { flipLast(t, filepath.Join(dir, "output.index")) },
		want: "not the one that the job signed", all: true},
	"the index is gone": {do: func(t *testing.T, dir string) {
		check(t, os.Remove(filepath.Join(dir, "output.index")))
	}, want: "index of the results is missing", all: true},
}

// TestIndexedAltered: results by index are all or nothing, unless the owner
// asks for what is left of them.
func TestIndexedAltered(t *testing.T) {
	t.Parallel()
	for name, c := range alterations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t)
			c.do(t, j.indexed(j.newNode("cn1"), nil))
			out := t.TempDir()
			nodes, err := j.fetch(transfer.Local{}, out)
			n := one(t, nodes, err)
			if n.Err == nil || !strings.Contains(n.Err.Error(), c.want) || fault.ClassOf(n.Err) != fault.Integrity ||
				!(c.all || strings.Contains(fault.Hint(n.Err), "--recover")) {
				t.Errorf("%v, hint %q", n.Err, fault.Hint(n.Err))
			}
			if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			nodes, err = j.recovering(out)
			n = one(t, nodes, err)
			if n.Err != nil {
				t.Fatal(n.Err)
			}
			if l, err := os.Readlink(filepath.Join(n.Dir, "sub", "link")); err != nil || l != "../result" {
				t.Errorf("the rest: %q, %v", l, err)
			}
			if c.all {
				if n.Indexed || len(n.Notes) != 1 || !strings.Contains(n.Notes[0], c.want) {
					t.Errorf("%+v", n)
				}
				opened(t, n.Dir, "cn1")
				return
			}
			if !n.Indexed || len(n.Damaged) != 1 || n.Damaged[0].Path != "result" || !errors.Is(n.Damaged[0].Err, volume.ErrIntegrity) {
				t.Errorf("%+v", n)
			}
			if _, err := os.Lstat(filepath.Join(n.Dir, "result")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the damaged file: %v", err)
			}
			// What was opened in part is not taken for the whole.
			nodes, err = j.fetch(transfer.Local{}, out)
			if n := one(t, nodes, err); n.Before || !errors.Is(n.Err, volume.ErrPath) {
				t.Errorf("after that: %+v", n)
			}
		})
	}
}

func flipLast(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	b[len(b)-1] ^= 1
	check(t, os.WriteFile(path, b, 0o600))
}

// TestRecoverSealed: of an altered sealed volume, what is not damaged; where it
// is gone, the working volume.
func TestRecoverSealed(t *testing.T) {
	t.Parallel()
	t.Run("altered", func(t *testing.T) {
		t.Parallel()
		j := newJob(t)
		n := j.newNode("cn1")
		n.sealed[bytes.LastIndex(n.sealed, []byte("ustar"))]++ // a tar header: nothing reads it
		j.write(n)
		nodes, err := j.recovering(t.TempDir())
		got := one(t, nodes, err)
		if got.Err != nil || !got.Sealed || len(got.Damaged) != 0 || len(got.Notes) != 1 {
			t.Fatalf("%+v", got)
		}
		opened(t, got.Dir, "cn1")
	})
	t.Run("damaged", func(t *testing.T) {
		t.Parallel()
		j := newJob(t)
		n := j.newNode("cn1")
		n.sealed[contentOf(t, n.sealed)+20] ^= 1
		j.write(n)
		nodes, err := j.recovering(t.TempDir())
		got := one(t, nodes, err)
		if got.Err != nil || !got.Sealed || len(got.Damaged) != 1 || got.Damaged[0].Path != "result" {
			t.Fatalf("%+v", got)
		}
		if _, err := os.Lstat(filepath.Join(got.Dir, "result")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the damaged file: %v", err)
		}
	})
	for name, do := range map[string]func(t *testing.T, sealed string){
		"gone": func(t *testing.T, sealed string) { check(t, os.Remove(sealed)) },
		"cut":  func(t *testing.T, sealed string) { check(t, os.Truncate(sealed, 1000)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t)
			n := j.newNode("cn1")
			sealed, receipt := n.sealed, *n.receipt
			dir := j.killed(n)
			check(t, os.WriteFile(filepath.Join(dir, sealedFile), sealed, 0o600))
			j.sign(n, dir, &receipt)
			do(t, filepath.Join(dir, sealedFile))
			out := t.TempDir()
			nodes, err := j.fetch(transfer.Local{}, out)
			if got := one(t, nodes, err); got.Err == nil || got.Dir != "" {
				t.Errorf("without --recover: %+v", got)
			}
			nodes, err = j.recovering(out)
			got := one(t, nodes, err)
			if got.Err != nil || got.Sealed || len(got.Notes) != 1 {
				t.Fatalf("%+v", got)
			}
			opened(t, got.Dir, "cn1")
		})
	}
}

// contentOf finds the ciphertext of newNode's only file with content.
func contentOf(t *testing.T, sealed []byte) int {
	t.Helper()
	r := bytes.NewReader(sealed)
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		check(t, err)
		if h.Typeflag == tar.TypeReg && strings.HasPrefix(h.Name, "volume/") && !volume.IsInternalName(filepath.Base(h.Name)) {
			return len(sealed) - r.Len()
		}
	}
}

// TestRecoverWithoutReceipt: a receipt that is damaged is done without.
func TestRecoverWithoutReceipt(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	dir := j.indexed(j.newNode("cn1"), nil)
	check(t, os.Truncate(filepath.Join(dir, jobdir.ReceiptName), 50))
	nodes, err := j.recovering(t.TempDir())
	n := one(t, nodes, err)
	if n.Err != nil || n.Receipt != nil || n.Indexed || len(n.Notes) != 1 || !strings.Contains(n.Notes[0], "receipt") {
		t.Fatalf("%+v", n)
	}
	opened(t, n.Dir, "cn1")
	// But never papers that are not the job's.
	j = newJob(t)
	other := j.newNode("cn1")
	j.service = newKey(t)
	j.killed(other)
	nodes, err = j.recovering(t.TempDir())
	if n := one(t, nodes, err); n.Err == nil || n.Dir != "" {
		t.Errorf("forged statement: %+v", n)
	}
}

// TestRecoverTorn: a killed job's torn file is cut and named; the rest is opened.
func TestRecoverTorn(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	dir := j.killed(j.newNode("cn1"))
	check(t, os.Truncate(cipherFile(t, dir), 30))
	nodes, err := j.fetch(transfer.Local{}, t.TempDir())
	n := one(t, nodes, err)
	if n.Err != nil || len(n.Damaged) != 1 || n.Damaged[0].Path != "result" {
		t.Fatalf("%+v", n)
	}
	if _, err := os.Readlink(filepath.Join(n.Dir, "sub", "link")); err != nil {
		t.Error(err)
	}
}

func TestRecoverWhileItRuns(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	dir := j.killed(j.newNode("cn1"))
	check(t, os.Remove(cipherFile(t, dir)))
	h := vanishing{name: "nothing-here"}
	nodes, err := Fetch(t.Context(), Deps{FS: h, Identities: nil, Recover: true}, j.rec, t.TempDir())
	if n := one(t, nodes, err); !errors.Is(n.Err, volume.ErrNoIdentity) {
		t.Errorf("without an identity: %v", n.Err)
	}
	if _, err := j.fetch(h, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	d := Deps{FS: h, Recover: true}
	d.Identities = append(d.Identities, j.owner)
	nodes, err = Fetch(t.Context(), d, j.rec, t.TempDir())
	n := one(t, nodes, err)
	if n.Err != nil || len(n.Notes) != 1 || !strings.Contains(n.Notes[0], "1 files changed or vanished") {
		t.Errorf("%+v", n)
	}
}

// vanishing lists a file that is away when it is opened.
type vanishing struct {
	transfer.Local
	name string
}

func (v vanishing) ReadDir(path string) ([]fs.FileInfo, error) {
	list, err := v.Local.ReadDir(path)
	if filepath.Base(path) == jobdir.CipherDirName && len(list) > 0 {
		for _, e := range list {
			if e.Mode().IsRegular() {
				return append(list, entry{e, v.name, 0o600}), err
			}
		}
	}
	return list, err
}
