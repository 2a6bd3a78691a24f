package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/volume"
)

func sealOptions(t testing.TB) volume.SealOptions {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	must(t, err)
	return volume.SealOptions{Recipients: []age.Recipient{id.Recipient()}}
}

// pack makes an archive of members; a file's content is its name.
func pack(t testing.TB, members ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg && !strings.HasSuffix(h.Name, "/") {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.ModTime = time.Unix(1e9, 0)
		if h.Typeflag == tar.TypeXGlobalHeader {
			h = tar.Header{Typeflag: h.Typeflag, PAXRecords: h.PAXRecords}
		}
		must(t, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := io.WriteString(w, h.Name)
			must(t, err)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	must(t, errors.Join(err, w.Close()))
	return out.Bytes()
}

func file(name string) tar.Header { return tar.Header{Name: name} }
func link(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
}
func symlink(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
}
func directory(name string) tar.Header {
	return tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o750}
}

// read lists an archive called top.
func read(t testing.TB, b []byte, top string, patterns ...string) (string, error) {
	t.Helper()
	exclude, err := ParsePatterns(patterns)
	must(t, err)
	var l lister
	err = Tar(t.Context(), bytes.NewReader(b), top, exclude, l.emit)
	return strings.Join(l.lines, "\n"), err
}

// with alters the header of a packed archive's first member, and its checksum.
func with(b []byte, change func(header []byte)) []byte {
	change(b)
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	for i := 5; i >= 0; i-- {
		b[148+i] = byte('0' + sum&7)
		sum >>= 3
	}
	b[154], b[155] = 0, ' '
	return b
}

// hostileArchive is an archive that is refused.
type hostileArchive struct {
	b    []byte
	want string // in the error
}

func hostileArchives(t *testing.T, good, zipped []byte) map[string]hostileArchive {
	flipped := bytes.Clone(zipped)
	flipped[len(flipped)-8] ^= 1 // the checksum
	return map[string]hostileArchive{
		"absolute":                {pack(t, file("/etc/passwd")), `"/etc/passwd" has an absolute path`},
		"above":                   {pack(t, file("a/../../b")), "leads out of the archive"},
		"dot dot":                 {pack(t, directory("..")), "leads out of the archive"},
		"twice":                   {pack(t, file("a"), file("a")), `"a" is there twice`},
		"twice, another spelling": {pack(t, file("d/a"), file("./d//a")), "is there twice"},
		"a directory twice":       {pack(t, directory("d"), directory("d")), "is there twice"},
		"a file over a directory": {pack(t, directory("d"), file("d")), "is there twice"},
		"a directory after all":   {pack(t, file("d/a"), directory("d")), "comes after what lies in it"},
		"the root after all":      {pack(t, file("a"), directory(".")), "comes after what lies in it"},
		"device":                  {pack(t, tar.Header{Name: "n", Typeflag: tar.TypeChar}), `"n" is a device`},
		"disk":                    {pack(t, tar.Header{Name: "n", Typeflag: tar.TypeBlock}), "is a device"},
		"pipe":                    {pack(t, tar.Header{Name: "n", Typeflag: tar.TypeFifo}), "is a named pipe"},
		"unknown kind":            {with(pack(t, file("n")), func(h []byte) { h[156] = 'Z' }), "cannot be sealed"},
		"a continued file":        {with(pack(t, file("n")), func(h []byte) { h[156] = 'M' }), "multi-volume archive"},
		"one name for all": {pack(t, tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "x"}}, file("n")),
			"says a path for all"},
		"link to nowhere":       {pack(t, link("l", "a"), file("a")), "is no file before it"},
		"link to a directory":   {pack(t, directory("d"), link("l", "d")), "is no file before it"},
		"link out":              {pack(t, link("l", "../a")), "is no file before it"},
		"link to itself":        {pack(t, link("l", "l")), "is no file before it"},
		"through a link":        {pack(t, symlink("d", "/etc"), file("d/passwd")), `"d/passwd" lies in "d", which is a symbolic link`},
		"through a file":        {pack(t, file("d"), file("d/x")), "which is a file"},
		"a link without target": {with(pack(t, symlink("l", "x")), func(h []byte) { h[157] = 0 }), "unusable target"},
		"a long target":         {pack(t, symlink("l", strings.Repeat("x", 4000))), "unusable target"},
		"a long name":           {pack(t, file(strings.Repeat("x", 256))), "a name of 256 bytes"},
		"a deep path":           {pack(t, file(strings.Repeat("d/", 5000)+"x")), "a path of 10001 bytes"},
		"a directory's name":    {with(pack(t, file("n")), func(h []byte) { copy(h, "n/") }), "a file with the name of a directory"},
		"no name":               {pack(t, file(".")), "has no name"},
		"a huge size":           {with(pack(t, file("n")), func(h []byte) { copy(h[124:136], "77777777777\x00") }), "it is cut off"},
		"a monstrous size": {with(pack(t, file("n")),
			func(h []byte) { copy(h[124:136], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff") }), "cut off"},
		"a negative size": {with(pack(t, file("n")),
			func(h []byte) { copy(h[124:136], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") }), "unusable archive"},
		"nothing":             {nil, "it is empty"},
		"no members":          {pack(t), "it holds nothing"},
		"no tar":              {[]byte(strings.Repeat("hello ", 200)), "unusable archive"},
		"short":               {[]byte("hi"), "it is cut off"},
		"two archives":        {append(bytes.Clone(good), good...), "something follows its end"},
		"garbage behind":      {append(bytes.Clone(good), "x"...), "something follows its end"},
		"garbage behind gzip": {append(bytes.Clone(zipped), "xxxxxxxxxxxxxxxxxxxx"...), "something follows the end of the compressed"},
		"garbage behind zeros behind gzip": {append(append(bytes.Clone(zipped), make([]byte, 700)...), zipped...),
			"something follows the end of the compressed"},
		"garbage within gzip": {zip(t, append(bytes.Clone(good), "x"...)), "something follows its end"},
		"a wrong checksum":    {flipped, "unusable archive"},
	}
}

func TestHostile(t *testing.T) {
	t.Parallel()
	good := pack(t, file("a"), file("b"))
	zipped := zip(t, good)
	for name, c := range hostileArchives(t, good, zipped) {
		text, err := read(t, c.b, "")
		if !errors.Is(err, ErrArchive) || !strings.Contains(err.Error(), c.want) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	for cut := range len(good) - 1 { // the second block of zeros at the very end may be cut
		if text, err := read(t, good[:cut], ""); !errors.Is(err, ErrArchive) {
			t.Errorf("cut at %d of %d: %v\n%s", cut, len(good), err, text)
		}
	}
	for cut := range len(zipped) {
		if text, err := read(t, zipped[:cut], ""); !errors.Is(err, ErrArchive) {
			t.Errorf("gzip cut at %d of %d: %v\n%s", cut, len(zipped), err, text)
		}
	}
}

// TestSparse: GNU tar's sparse files, in each of its forms.
func TestSparse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run(t, dir, "truncate", "-s", "1T", "bomb")
	run(t, dir, "sh", "-c", "printf begin >holes; truncate -s 3M holes; printf end >>holes")
	var want lister
	if err := At(dir+"/holes").Walk(t.Context(), want.emit); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"} {
		args := []string{"--create", "--sparse", "--file", "x.tar", format}
		if format != "--format=gnu" {
			args = append(args, "--format=posix")
		}
		run(t, dir, "tar", append(args, "bomb")...)
		if err := At(dir+"/x.tar").Walk(t.Context(), new(lister).emit); !errors.Is(err, ErrArchive) ||
			!strings.Contains(err.Error(), "is a sparse file") {
			t.Errorf("%s: %v", format, err)
		}
		run(t, dir, "tar", append(args, "holes")...)
		var got lister
		err := At(dir+"/x.tar").Walk(t.Context(), got.emit)
		if err != nil || withoutFraction(got.lines[1]) != withoutFraction(want.lines[1]) || len(got.lines) != len(want.lines) {
			t.Errorf("%s: %v\n%.300q\n%.300q", format, err, got.lines, want.lines)
		}
	}
}

func TestHonest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		b       []byte
		top     string
		exclude string
		want    []string // name and rest of each entry, in order
	}{
		"a directory is implied": {pack(t, file("d/e/a"), file("d/b")), "", "none", []string{
			`in 0 "" directory 0755`, `in 0 "d" directory 0755`, `in 1 "e" directory 0755`, `in 2 "a" file 0644`, `in 1 "b" file`}},
		"a later directory within": {pack(t, file("d/a"), directory("d/e"), file("d/e/b")), "", "none", []string{
			`in 0 ""`, `in 0 "d"`, `in 1 "a"`, `in 1 "e" directory 0750`, `in 3 "b"`}},
		"the root is named": {pack(t, directory("."), file("./a")), "", "none", []string{`in 0 "" directory 0750`, `in 0 "a"`}},
		"one top directory": {pack(t, directory("x"), file("x/a"), link("x/b", "x/a")), "x", "none", []string{
			`in 0 "" directory 0750`, `in 0 "a"`, `in 0 "b" = 1`}},
		"an implied top directory": {pack(t, file("x/a"), symlink("x/l", "/etc")), "x", "none", []string{
			`in 0 "" directory 0755`, `in 0 "a"`, `in 0 "l" symbolic link 0644 1000000000.000000000 -> "/etc"`}},
		"another top directory":   {pack(t, directory("y"), file("y/a")), "x", "none", []string{`in 0 ""`, `in 0 "y"`, `in 1 "a"`}},
		"a file called as itself": {pack(t, file("x")), "x", "none", []string{`in 0 ""`, `in 0 "x" file`}},
		"links of links": {pack(t, file("a"), link("b", "a"), link("c", "./b"), symlink("s", "a"), link("t", "s")), "", "none", []string{
			`in 0 ""`, `in 0 "a"`, `in 0 "b" = 1`, `in 0 "c" = 1`, `in 0 "s" symbolic link`, `in 0 "t" symbolic link`}},
		"excluded": {pack(t, directory("d"), file("d/a"), file("d/b.log"), directory("tmp"), file("tmp/x/y")), "", "tmp/ *.log", []string{
			`in 0 ""`, `in 0 "d"`, `in 1 "a"`}},
		"excluded, implied": {pack(t, file("tmp/x"), file("b")), "", "tmp/", []string{`in 0 ""`, `in 0 "b"`}},
		"gzip":              {zip(t, pack(t, file("a"))), "", "none", []string{`in 0 ""`, `in 0 "a" file`}},
		"a comment": {pack(t, tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, file("a")), "", "none",
			[]string{`in 0 ""`, `in 0 "a" file`}},
	} {
		text, err := read(t, c.b, c.top, strings.Fields(c.exclude)...)
		lines := strings.Split(text, "\n")
		if err != nil || len(lines) != len(c.want) {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(lines[i], want) {
				t.Errorf("%s: %s instead of %s", name, lines[i], want)
			}
		}
	}
	for want, b := range map[string][]byte{
		`"y" lies beside the directory "x"`: pack(t, file("x/a"), file("y")),
		"is no file before it":              pack(t, file("x/a"), link("x/b", "a")),
	} {
		if _, err := read(t, b, "x"); !errors.Is(err, ErrArchive) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
	if _, err := read(t, pack(t, file("tmp/a"), link("b", "tmp/a")), "", "tmp/"); !errors.Is(err, ErrArchive) ||
		!strings.Contains(err.Error(), "which is excluded") {
		t.Errorf("%v", err)
	}
}

// TestTarMemory: a large member takes no memory. It is not parallel: it looks at
// the whole heap.
func TestTarMemory(t *testing.T) {
	const size = 256 << 20
	var header bytes.Buffer
	must(t, tar.NewWriter(&header).WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Size: size, Mode: 0o600}))
	in := io.MultiReader(&header, io.LimitReader(nothing{}, size+1024))
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	peak := uint64(0)
	err := Tar(t.Context(), in, "", nil, func(e volume.Entry) (uint32, error) {
		if e.Open == nil {
			return 0, nil
		}
		r, err := e.Open()
		must(t, err)
		for n := int64(0); n < size; n += 16 << 20 {
			_, err := io.CopyN(io.Discard, r, 16<<20)
			must(t, err)
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapInuse)
		}
		return 1, nil
	})
	if err != nil || peak == 0 || peak > before.HeapInuse+32<<20 {
		t.Errorf("%v: %d MiB of heap more", err, (int64(peak)-int64(before.HeapInuse))>>20)
	}
}

// nothing is zeros without end.
type nothing struct{}

func (nothing) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// FuzzTar: whatever an archive holds, what comes out of it is a tree that can be
// sealed, or an error that says that the archive is to blame.
func FuzzTar(f *testing.F) {
	good := pack(f, directory("x"), file("x/a"), link("x/b", "x/a"), symlink("x/l", "a"), file("x/d/e/f"))
	f.Add(good)
	f.Add(zip(f, good))
	f.Add(pack(f, file(strings.Repeat("long/", 60)+"a"), symlink("s", strings.Repeat("y", 300))))
	f.Add(pack(f, tar.Header{Name: "p", PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}}))
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Add([]byte("\xfd7zXZ\x00"))
	f.Add([]byte("BZh9"))
	patterns, err := ParsePatterns([]string{"*.log", "tmp/"})
	must(f, err)
	f.Fuzz(func(t *testing.T, b []byte) {
		var l lister
		err := Tar(t.Context(), bytes.NewReader(b), "x", patterns, l.emit)
		if err != nil && !errors.Is(err, ErrArchive) {
			t.Errorf("not said to be the archive's fault: %v", err)
		}
		if err == nil && len(l.lines) == 0 {
			t.Error("no root")
		}
	})
}
