package layers

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// TestRefused: what is hostile or broken is refused, in words that name the layer and the entry.
func TestRefused(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("d/", 1500)
	for name, c := range map[string]struct {
		members []member
		kind    error
		says    string
	}{
		"leads out": {[]member{file("../etc/passwd", "x")},
			ErrFormat, `"../etc/passwd" leads out of the image`},
		"leads out, inside": {[]member{file("a/../../b", "x")},
			ErrFormat, `"a/../../b" leads out of the image`},
		"absolute, leads out": {[]member{file("/../b", "x")}, ErrFormat, `"/../b" leads out of the image`},
		"whiteout leads out":  {[]member{gone("../.wh.etc")}, ErrFormat, `leads out of the image`},
		"hard link leads out": {[]member{hard("b", "../../etc/shadow")},
			ErrFormat, `"b" is a hard link to "../../etc/shadow", which leads nowhere`},
		"hard link to nothing": {[]member{hard("b", "/etc/shadow")},
			ErrFormat, `"b" is a hard link to "/etc/shadow", which is not there`},
		"hard link to a directory": {[]member{hard("b", "base/d")}, ErrFormat, `which is a directory`},
		"hard link to what went": {[]member{gone("base/.wh.f"), hard("b", "base/f")},
			ErrFormat, `which is not there`},
		"hard link to the root": {[]member{hard("b", ".")}, ErrFormat, `which leads nowhere`},
		"loop": {[]member{link("a", "b"), link("b", "a"), file("a/x", "x")},
			ErrFormat, `"a/x" cannot be reached: the symbolic links on the way lead round`},
		"loop of one": {[]member{link("a", "a/b"), file("a/x", "x")}, ErrFormat, `lead round`},
		"loop below": {[]member{link("base/l", "/base/l"), gone("base/l/.wh.x")},
			ErrFormat, `lead round`},
		"hard link behind a loop": {[]member{link("a", "a"), hard("x", "a/x")}, ErrFormat, `lead round`},
		"below a file of it": {[]member{file("x", "x"), file("x/y", "y")},
			ErrFormat, `"x/y" lies in "x", which is a file`},
		"the root is a file":        {[]member{file(".", "x")}, ErrFormat, `has no name, and is no directory`},
		"the root is a link":        {[]member{link("/", "etc")}, ErrFormat, `has no name, and is no directory`},
		"whiteout of nothing":       {[]member{gone("a/.wh.")}, ErrFormat, `is a whiteout of nothing`},
		"whiteout of itself":        {[]member{gone("a/.wh..")}, ErrFormat, `is a whiteout of nothing`},
		"whiteout of what is above": {[]member{gone("a/.wh...")}, ErrFormat, `is a whiteout of nothing`},
		"in a whiteout": {[]member{file("a/.wh.b/c", "x")},
			ErrFormat, `lies in a directory with the name of a whiteout`},
		"in a whiteout, by a link": {[]member{link("l", ".wh.b"), file("l/c", "x")},
			ErrFormat, `lies in a directory with the name of a whiteout`},
		"link without target": {[]member{link("l", "")},
			ErrFormat, `"l" is a symbolic link with an impossible target`},
		"link to very far": {[]member{link("l", strings.Repeat("t", 4096))},
			ErrFormat, `impossible target of 4096 bytes`},
		"long name": {[]member{file(strings.Repeat("n", 256), "x")},
			ErrTooLarge, `has a name of 256 bytes; 255 are possible`},
		"long name, by a link": {[]member{link("l", strings.Repeat("n", 256)), file("l/x", "x")},
			ErrTooLarge, `256 bytes; 255 are possible`},
		"long path": {[]member{file(strings.Repeat("p/", 2048)+"x", "x")},
			ErrTooLarge, `has a path of 4097 bytes; 4095 are taken`},
		"deep path": {[]member{dir(deep[:len(deep)-1])}, ErrFormat, `too many directories`},
		"deep, by links": {[]member{dir(deep[:1999]), link("l", deep[:1999]), dir("l/" + deep[:1999])},
			ErrFormat, `too many directories`},
		"multi-volume": {[]member{made('M', "f", "", "x")}, ErrFormat, `begins in another archive`},
		"unknown kind": {[]member{made('Z', "f", "", "x")},
			ErrFormat, `is of a kind that no file has (tar's 'Z')`},
		"large attributes": {[]member{file("f", "x").pax("SCHILY.xattr.user.a", strings.Repeat("v", 65<<10))},
			ErrTooLarge, `of extended attributes`},
		"long attribute's name": {[]member{file("f", "x").pax("SCHILY.xattr.user."+strings.Repeat("v", 256), "v")},
			ErrTooLarge, `of extended attributes`},
		"zero byte in a sparse name": {[]member{sparseFile("f", 2, "GNU.sparse.name", "a\x00b")},
			ErrFormat, `zero byte in its name`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := layer(t, dir("base"), dir("base/d"), file("base/f", "f"))
			bad := layer(t, c.members...)
			_, err := Merge(context.Background(), []Layer{base, bad, base}, Limits{})
			at := fmt.Sprintf("layer 2 of 3 (%s): ", bad.Digest[7:19])
			if !errors.Is(err, c.kind) || !strings.HasPrefix(fmt.Sprint(err), at) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nwant %s... %s", err, at, c.says)
			}
			if fault.ClassOf(err) != fault.Usage {
				t.Errorf("class %v", fault.ClassOf(err))
			}
		})
	}
}

// TestMediaTypes: layers that cannot be read are refused before anything is.
func TestMediaTypes(t *testing.T) {
	t.Parallel()
	good := layer(t, file("f", "x"))
	for mediaType, kind := range map[string]error{
		ociTar: nil, ociGzip: nil, ociZstd: nil, "": nil,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":                      nil,
		ociGzip + "+encrypted":                                                   ErrEncrypted,
		ociZstd + "+encrypted":                                                   ErrEncrypted,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":              ErrForeign,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip":           ErrForeign,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip+encrypted": ErrEncrypted,
		"application/vnd.oci.image.layer.v1.tar+brotli":                          ErrMediaType,
		"application/vnd.cncf.helm.chart.content.v1.tar+gzip":                    ErrMediaType,
		"text/html\x1b[2J":                                                       ErrMediaType,
	} {
		l := good
		l.MediaType = mediaType
		_, err := Merge(context.Background(), []Layer{good, l}, Limits{})
		if !errors.Is(err, kind) || (kind == nil) != (err == nil) {
			t.Errorf("%q: %v; want %v", mediaType, err, kind)
		}
		if err != nil && (!strings.HasPrefix(err.Error(), "layer 2 of 2 (") || strings.Contains(err.Error(), "\x1b")) {
			t.Errorf("%q: %q", mediaType, err)
		}
		if kind == ErrEncrypted && fault.Hint(err) == "" {
			t.Errorf("%q: no hint", mediaType)
		}
	}
}

// TestLimits: each bound is kept by what just fits, and holds against one more.
func TestLimits(t *testing.T) {
	t.Parallel()
	zeros := strings.Repeat("\x00", 1<<20)
	sparse := sparseFile("s", 1<<40)
	for name, c := range map[string]struct {
		fits, more [][]member
		lim        Limits
		says       string
	}{
		"layers": {[][]member{{}, {}}, [][]member{{}, {}, {}}, Limits{Layers: 2}, "more than the 2 layers"},
		"entries": {[][]member{{file("a", "")}, {file("a", "")}}, [][]member{{file("a", "")}, {file("b", ""), file("c", "")}},
			Limits{Entries: 2}, `"c" is one entry too many: 2 are taken`},
		"implied": {[][]member{{file("a/b", "")}}, [][]member{{file("a/b/c", "")}},
			Limits{Entries: 2}, "one entry too many"},
		"names": {[][]member{{file("abc", "")}}, [][]member{{file("abcd", "")}},
			Limits{Names: 3 + entryCost}, "is too much"},
		"targets": {[][]member{{link("a", "bcd")}}, [][]member{{link("a", "bcde")}},
			Limits{Names: 4 + 2*entryCost}, "is too much"},
		"attributes": {[][]member{{file("a", "").pax("SCHILY.xattr.user.x", "1")}},
			[][]member{{file("a", "").pax("SCHILY.xattr.user.x", "12")}},
			Limits{Names: 1 + 6 + 1 + 2*entryCost}, "is too much"},
		"path": {[][]member{{file("a/bcd", "")}}, [][]member{{file("a/bcde", "")}},
			Limits{Path: 5}, "has a path of 6 bytes; 5 are taken"},
		"depth": {[][]member{{file("a/b/c", "")}}, [][]member{{file("a/b/c/d", "")}},
			Limits{Depth: 3}, "too many directories"},
		"bytes": {[][]member{{file("a", zeros)}}, [][]member{{file("a", zeros)}, {file("b", zeros)}},
			Limits{Bytes: 2<<20 - 1}, "the layers hold more than the 2.0 MiB that are taken"},
		"ratio": {[][]member{{file("a", zeros[:1<<18])}}, [][]member{{file("a", zeros)}},
			Limits{Slack: 1 << 18, Ratio: 10}, "no image but a bomb"},
		"sparse": {[][]member{{sparseFile("s", 1<<30)}}, [][]member{{sparse}},
			Limits{}, `"s" is a sparse file of 1.0 TiB`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stack := func(s [][]member) (out []Layer) {
				for _, members := range s {
					out = append(out, layer(t, members...))
				}
				return out
			}
			if _, err := Merge(context.Background(), stack(c.fits), c.lim); err != nil {
				t.Errorf("what fits: %v", err)
			}
			_, err := Merge(context.Background(), stack(c.more), c.lim)
			if !errors.Is(err, ErrTooLarge) && name != "depth" || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nwant %s", err, c.says)
			}
		})
	}
}

// sparseFile is one byte in a sparse file of some size, in pax's format 0.1.
func sparseFile(name string, size int64, more ...string) member {
	m := made(tar.TypeReg, name, "", "x")
	m.records = [][2]string{{"GNU.sparse.major", "0"}, {"GNU.sparse.minor", "1"}, {"GNU.sparse.numblocks", "1"},
		{"GNU.sparse.map", fmt.Sprintf("%d,1", size/2)}, {"GNU.sparse.size", fmt.Sprint(size)}}
	for i := 0; i < len(more); i += 2 {
		m.records = append(m.records, [2]string{more[i], more[i+1]})
	}
	return m
}
