package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/inflate"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/text"
)

// vector unpacks the archive NAME.tar.gz that testdata/regenerate had a real program write.
func vector(t testing.TB, name string) string {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, name+".tar", b)
}

func write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkLayers reads each layer twice and holds it against what the image says of it.
func checkLayers(t *testing.T, img *Image) {
	t.Helper()
	for i, l := range img.Layers {
		for range 2 {
			r, err := l.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(r)
			if err = errors.Join(err, r.Close()); err != nil || int64(len(raw)) != l.Size || (l.Digest != "" &&
				l.Digest != oci.DigestOf(raw)) {
				t.Errorf("layer %d: %d bytes of %d, %s, %v", i, len(raw), l.Size, l.Digest, err)
			}
			plain, free, err := inflate.NewReader(bufio.NewReader(bytes.NewReader(raw)), inflate.Detect(raw))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.New()
			_, err = io.Copy(sum, plain)
			free()
			if got := fmt.Sprintf("sha256:%x", sum.Sum(nil)); err != nil || got != l.DiffID {
				t.Errorf("layer %d is %s, not %s (%v)", i, got, l.DiffID, err)
			}
		}
	}
}

// TestRealArchives opens what Docker, podman, buildah, skopeo and umoci wrote of the same image.
func TestRealArchives(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		archive, choice string
		layers          int
		of, reference   string // %s is the path
		name            string
	}{
		{"buildah", "", 3, OfManifest, "oci-archive:%s:jp2a:1.0", "buildah"},
		{"buildah", ":jp2a:1.0", 3, OfManifest, "oci-archive:%s:jp2a:1.0", "jp2a"},
		{"podman-oci", "", 3, OfManifest, "oci-archive:%s:localhost/jp2a:1.0", "podman-oci"},
		{"podman-oci", ":jp2a:1.0", 3, OfManifest, "oci-archive:%s:jp2a:1.0", "jp2a"},
		{"podman-oci", ":1.0", 3, OfManifest, "oci-archive:%s:1.0", "podman-oci"},
		{"podman-docker", "", 3, OfConfig, "docker-archive:%s:localhost/jp2a:1.0", "podman-docker"},
		{"podman-docker", ":localhost/jp2a:1.0", 3, OfConfig, "docker-archive:%s:localhost/jp2a:1.0", "jp2a"},
		{"skopeo-docker", ":jp2a:1.0", 3, OfConfig, "docker-archive:%s:jp2a:1.0", "jp2a"},
		{"umoci", ":1.0", 1, OfManifest, "oci-archive:%s:1.0", "umoci"},
		{"docker20", ":talinx/jp2a:1.0", 3, OfConfig, "docker-archive:%s:talinx/jp2a:1.0", "jp2a"},
		{"docker20", ":jp2a", 3, OfConfig, "docker-archive:%s:jp2a", "docker20"},
		{"docker20", "@0", 3, OfConfig, "docker-archive:%s@0", "docker20"},
		{"docker20", ":docker.io/library/jp2a:latest", 3, OfConfig, "docker-archive:%s:docker.io/library/jp2a:latest", "jp2a"},
		{"docker26", ":talinx/jp2a:1.0", 3, OfManifest, "docker-archive:%s:talinx/jp2a:1.0", "jp2a"},
		{"docker26", ":jp2a:latest", 3, OfManifest, "docker-archive:%s:jp2a:latest", "jp2a"},
		{"docker26c", ":talinx/jp2a:1.0", 3, OfManifest, "docker-archive:%s:talinx/jp2a:1.0", "jp2a"},
		{"docker26c", "@1", 3, OfManifest, "docker-archive:%s@1", "docker26c"},
	} {
		t.Run(c.archive+c.choice, func(t *testing.T) {
			t.Parallel()
			path := vector(t, c.archive)
			compressed, err := filepath.Abs("testdata/" + c.archive + ".tar.gz")
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{path, compressed} {
				img, err := Open(t.Context(), "oci-archive:"+p+c.choice, Options{SpoolDir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				if len(img.Layers) != c.layers || img.DigestOf != c.of || img.Reference != fmt.Sprintf(c.reference,
					p) || img.Name != c.name {
					t.Errorf("%d layers, %s, %s of %s", len(img.Layers), img.Name, img.DigestOf, img.Reference)
				}
				if e := img.Config.Config; !slices.Contains(e.Env, "A=x y") || !slices.Equal(e.Entrypoint,
					[]string{"/hello"}) || e.Labels["org.example.a"] != "b" {
					t.Errorf("%+v", e)
				}
				if img.Platform != "linux/amd64" || oci.DigestOf(img.RawConfig) == "" || (c.of == OfManifest &&
					oci.DigestOf(img.RawManifest) != img.Digest) {
					t.Errorf("%s %s", img.Platform, img.Digest)
				}
				checkLayers(t, img)
				if err := img.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestSeveral: which of several images is meant has to be said, and who does not is told what there is.
func TestSeveral(t *testing.T) {
	t.Parallel()
	for archive, want := range map[string]string{
		"docker20": "it holds several images: jp2a:latest, other:2, talinx/jp2a:1.0",
		"docker26": "it holds several images: docker.io/library/jp2a:latest, docker.io/library/other:2, docker.io/talinx/jp2a:1.0",
	} {
		_, err := Open(t.Context(), vector(t, archive), Options{})
		if err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Usage || fault.Hint(err) == "" {
			t.Errorf("%s: %v", archive, err)
		}
		for _, choice := range []string{":jp2a:2", "@7", "@-1", "@x", ":nothing", "@sha256:" + strings.Repeat("0", 64)} {
			_, err = Open(t.Context(), "docker-archive:"+vector(t, archive)+choice, Options{})
			if err == nil || fault.ClassOf(err) != fault.Usage {
				t.Errorf("%s%s: %v", archive, choice, err)
			}
		}
	}
}

// a tree of files, as a directory and as an archive.
type tree map[string]string

const escapes = "-> " // begins the content of what is a link

func (tr tree) with(name, content string) tree {
	out := maps.Clone(tr)
	out[name] = content
	return out
}

func (tr tree) without(name string) tree {
	out := maps.Clone(tr)
	delete(out, name)
	return out
}

func (tr tree) tar(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(tr)) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(tr[name])), Typeflag: tar.TypeReg}
		body := tr[name]
		if target, link := strings.CutPrefix(body, escapes); link {
			h.Typeflag, h.Size, h.Linkname, body = tar.TypeSymlink, 0, target, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (tr tree) dir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range tr {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(body, escapes); link {
			err = os.Symlink(target, p)
		} else {
			err = os.WriteFile(p, []byte(body), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// blob adds a blob and returns its descriptor's JSON.
func (tr tree) blob(kind, body, more string) string {
	digest := oci.DigestOf([]byte(body))
	tr["blobs/sha256/"+digest[len("sha256:"):]] = body
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d%s}`, kind, digest, len(body), more)
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// image adds an image and returns its descriptor's JSON.
func (tr tree) image(arch, layer, more string) string {
	config := fmt.Sprintf(`{"os":"linux","architecture":%q,"rootfs":{"type":"layers","diff_ids":[%q]}}`, arch,
		oci.DigestOf([]byte(layer)))
	m := fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s]}`,
		tr.blob("application/vnd.oci.image.config.v1+json", config, ""), tr.blob(layerType, layer, ""))
	return tr.blob(manifestType, m, more)
}

func called(name string) string {
	b, err := json.Marshal(map[string]string{refName: name})
	if err != nil {
		panic(err)
	}
	return `,"annotations":` + string(b)
}

// layoutOf is a layout with the images list.
func (tr tree) layout(list ...string) tree {
	tr[layoutFile] = `{"imageLayoutVersion":"1.0.0"}`
	tr[indexFile] = `{"schemaVersion":2,"manifests":[` + strings.Join(list, ",") + `]}`
	return tr
}

// aLayout is a layout with one image, and the name of its layer's file.
func aLayout(tag string) (tree, string) {
	tr := tree{}
	tr.layout(tr.image("amd64", "layer", called(tag)))
	return tr, "blobs/sha256/" + oci.DigestOf([]byte("layer"))[len("sha256:"):]
}

// TestLayouts opens layouts in directories and archives.
func TestLayouts(t *testing.T) {
	t.Parallel()
	one, _ := aLayout("1.0")
	tags, twice, platforms := tree{}, tree{}, tree{}
	tags.layout(tags.image("amd64", "a", called("1.0")), tags.image("amd64", "b", called("2.0")))
	twice.layout(twice.image("amd64", "a", called("1.0")), twice.image("amd64", "a", called("latest")))
	platforms.layout(platforms.image("amd64", "a", called("x")), platforms.image("arm64", "b", called("x")))
	digest := func(layer string) string { return oci.DigestOf([]byte(layer)) }
	for name, c := range map[string]struct {
		tree             tree
		choice, platform string
		want             string // digest of the layer
	}{
		"the only one":          {one, "", "", digest("layer")},
		"by tag":                {tags, ":2.0", "", digest("b")},
		"by number":             {tags, "@0", "", digest("a")},
		"by number, as skopeo":  {tags, ":@1", "", digest("b")},
		"two names of one":      {twice, "", "", digest("a")},
		"of its platform":       {platforms, "", "", digest("a")},
		"of another platform":   {platforms, ":x", "linux/arm64", digest("b")},
		"a colon without a tag": {one, ":", "", digest("layer")},
	} {
		dir := c.tree.dir(t)
		img, err := Open(t.Context(), "oci:"+dir+c.choice, Options{Platform: c.platform})
		if err != nil || img.Layers[0].Digest != c.want || !strings.HasPrefix(img.Reference, "oci:"+dir) {
			t.Errorf("%s: %+v, %v", name, img, err)
			continue
		}
		checkLayers(t, img)
		manifest := img.Digest
		file := write(t, "my image:1.0.tar", c.tree.tar(t))
		archive, err := Open(t.Context(), "oci-archive:"+file+c.choice, Options{Platform: c.platform})
		if err != nil || archive.Digest != manifest || !strings.HasPrefix(archive.Reference, "oci-archive:"+file) ||
			archive.Name != "my_image_1.0" {
			t.Errorf("%s, in an archive: %+v, %v", name, archive, err)
			continue
		}
		checkLayers(t, archive)
		byDigest, err := Open(t.Context(), "oci:"+dir+"@"+manifest, Options{Platform: c.platform})
		if err != nil || byDigest.Digest != manifest || byDigest.Reference != "oci:"+dir+"@"+manifest {
			t.Errorf("%s, by digest: %+v, %v", name, byDigest, err)
			continue
		}
		if err := errors.Join(img.Close(), archive.Close(), byDigest.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestReferenceIsPlain, whatever a file and the image in it are called.
func TestReferenceIsPlain(t *testing.T) {
	t.Parallel()
	tr, _ := aLayout("\x1b[2J" + strings.Repeat("ä", maxReference))
	path := write(t, "a\nb\xff\x1b.tar", tr.tar(t))
	img, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r := img.Reference; strings.ContainsFunc(r, text.Steers) || len(r) > maxReference || !strings.Contains(r, "/a?b??.tar:?[2Jä") {
		t.Errorf("%q", r)
	}
	if err := img.Close(); err != nil {
		t.Error(err)
	}
}

// TestBadLayouts: each is a clear error, in a directory and in an archive.
func TestBadLayouts(t *testing.T) {
	t.Parallel()
	good, layer := aLayout("1.0")
	outside := write(t, "secret", []byte("layer"))
	tags, platforms := tree{}, tree{}
	tags.layout(tags.image("amd64", "a", called("1.0")), tags.image("amd64", "b", called("2.0")))
	platforms.layout(platforms.image("amd64", "a", called("x")), platforms.image("amd64", "b", called("x")))
	arm := tree{}
	arm.layout(arm.image("arm64", "a", ""))
	for name, c := range map[string]struct {
		tree         tree
		choice, want string
	}{
		"no such tag":          {good, ":2.0", "it holds no image 2.0"},
		"no such number":       {good, "@1", "it holds no image @1"},
		"no such digest":       {good, "@" + oci.DigestOf(nil), "is missing"},
		"no digest":            {good, "@sha256:0", "wrong number of hex digits"},
		"several":              {tags, "", "several images: 1.0, 2.0"},
		"one name for two":     {platforms, ":x", "several images: @sha256:"},
		"another platform":     {arm, "", "only for linux/arm64"},
		"no layer":             {good.without(layer), "", "is missing"},
		"a layer cut off":      {good.with(layer, "laye"), "", "has 4 bytes, not 5"},
		"a link out of it":     {good.with(layer, escapes+outside), "", "not an image that sealbatch can read"},
		"a link up":            {good.with(layer, escapes+"../../../../"+outside), "", "not an image that sealbatch can read"},
		"a link to itself":     {good.with(layer, escapes+filepath.Base(layer)), "", "not an image that sealbatch can read"},
		"no index":             {good.without(indexFile), "", "it holds neither"},
		"no oci-layout":        {good.without(layoutFile), "", "it holds neither"},
		"layout of the future": {good.with(layoutFile, `{"imageLayoutVersion":"2.0.0"}`), "", "no version of the layout that is known"},
		"an index of nothing":  {tree{}.layout(), "", "it holds no image"},
		"no JSON":              {good.with(indexFile, "{"), "", "cannot be read"},
		"a huge index":         {good.with(indexFile, strings.Repeat(" ", oci.MaxManifest+1)), "", "is the most"},
		"an empty digest":      {good.with(indexFile, `{"manifests":[{"digest":"../../etc/passwd"}]}`), "", "cannot be read"},
	} {
		for kind, path := range map[string]string{"oci:": c.tree.dir(t), "oci-archive:": write(t, "x.tar", c.tree.tar(t))} {
			img, err := Open(t.Context(), kind+path+c.choice, Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) || img != nil {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
	}
	pipe := good.without(layer).dir(t)
	if err := syscall.Mkfifo(filepath.Join(pipe, layer), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), pipe, Options{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a named pipe: %v", err)
	}
}

// aDockerArchive is what docker save wrote before Docker 25, of two images.
func aDockerArchive() (tr tree, config string) {
	config = fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`,
		oci.DigestOf([]byte("layer")))
	id := oci.DigestOf([]byte(config))[len("sha256:"):]
	tr = tree{
		id + ".json": config, "1/layer.tar": "layer", "2/layer.tar": escapes + "../1/layer.tar",
		dockerManifest: fmt.Sprintf(`[{"Config":"%s.json","RepoTags":["a:1"],"Layers":["2/layer.tar"]}]`, id),
	}
	return tr, id + ".json"
}

func TestBadDockerArchives(t *testing.T) {
	t.Parallel()
	good, config := aDockerArchive()
	img, err := Open(t.Context(), write(t, "good.tar", good.tar(t)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkLayers(t, img)
	if err := img.Close(); err != nil {
		t.Error(err)
	}
	manifest := func(s string) tree { return good.with(dockerManifest, s) }
	for name, c := range map[string]struct {
		tree tree
		want string
	}{
		"a config elsewhere":  {manifest(`[{"Config":"../../../etc/passwd","Layers":[]}]`), "leads out of the archive"},
		"an absolute config":  {manifest(`[{"Config":"/etc/passwd","Layers":[]}]`), "leads out of the archive"},
		"no config":           {good.without(config), "is missing"},
		"a config of another": {good.with(config, `{"os":"linux"}`), "has digest sha256:"},
		"a layer elsewhere": {manifest(`[{"Config":"` + config + `","Layers":["../../etc/passwd"]}]`),
			"leads out of the archive"},
		"a layer too few":          {manifest(`[{"Config":"` + config + `","Layers":[]}]`), "0 layers, and its config 1"},
		"a layer missing":          {good.without("1/layer.tar"), "is missing"},
		"a link out of it":         {good.with("2/layer.tar", escapes+"../../etc/passwd"), "leads out of the archive"},
		"an absolute link":         {good.with("2/layer.tar", escapes+"/etc/passwd"), "leads out of the archive"},
		"links in a circle":        {good.with("1/layer.tar", escapes+"../2/layer.tar"), "link to a link"},
		"no list":                  {manifest(`{}`), "cannot be read"},
		"an empty list":            {manifest(`[]`), "it holds no image"},
		"a huge manifest":          {manifest(strings.Repeat(" ", oci.MaxManifest+1)), "is the most"},
		"of an early Docker":       {good.without(dockerManifest).with("repositories", "{}"), "before 1.10"},
		"of docker export":         {tree{"etc/passwd": "", "usr/bin/x": "", "repositories.txt": ""}, "docker export"},
		"a dir: of skopeo's":       {tree{dockerManifest: "{}", "version": "Directory Transport Version: 1.1\n"}, "docker-dir"},
		"something else in a tar":  {tree{"README": "hello"}, "it holds neither"},
		"a config that is no JSON": {good.with("c", "x").with(dockerManifest, `[{"Config":"c","Layers":[]}]`), "cannot be read"},
	} {
		_, err := Open(t.Context(), "docker-archive:"+write(t, "x.tar", c.tree.tar(t)), Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamagedFiles are told of, whatever is wrong with them.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	tr, config := aDockerArchive()
	good := tr.tar(t)
	twice := append(bytes.Clone(good[:len(good)-1024]), tree{config: "x"}.tar(t)...)
	sparse := tree{dockerManifest: "[]"}.tar(t)
	zeros := func(n int64) []byte {
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(z, zero{}, n); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	packed := zeros(1 << 20)
	corrupt := bytes.Clone(sparse)
	corrupt[0] ^= 1
	for name, c := range map[string]struct {
		body []byte
		want string
	}{
		"cut off in a header":   {good[:512*2+100], "cut off"},
		"cut off in a member":   {good[:512+2], "cut off"},
		"a member twice":        {twice, "is there twice"},
		"a header that is torn": {corrupt, "damaged"},
		"empty":                 {nil, "no tar archive"},
		"text":                  {bytes.Repeat([]byte("x"), 4096), "no tar archive"},
		"gzip cut off":          {packed[:len(packed)/2], "does not unpack"},
		"gzip of nothing":       {zeros(0), "it holds neither"},
	} {
		path := write(t, "x", c.body)
		_, err := Open(t.Context(), path, Options{SpoolDir: t.TempDir()})
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	bomb := &bounded{r: zero{}, in: &metered{n: freeSize / 1000}}
	if n, err := io.Copy(io.Discard, bomb); !errors.Is(err, ErrFormat) || n < freeSize || n > 2*freeSize {
		t.Errorf("a bomb: %d bytes, %v", n, err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(cancelled, write(t, "x", packed), Options{SpoolDir: t.TempDir()}); !errors.Is(err,
		context.Canceled) || errors.Is(err, ErrFormat) {
		t.Errorf("cancelled: %v", err)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Whatever an archive is, the answer is an error or an image whose layers lie in it.
func FuzzArchive(f *testing.F) {
	layout, _ := aLayout("1.0")
	docker, _ := aDockerArchive()
	f.Add(layout.tar(f))
	f.Add(docker.tar(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := openArchive(bytes.NewReader(b), int64(len(b)), nil)
		if err != nil {
			return
		}
		img, err := Options{}.pick(t.Context(), a, origin{name: "/x", file: true}, "")
		if err != nil {
			return
		}
		for _, l := range img.Layers {
			r, err := l.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != l.Size {
				t.Errorf("%d of %d bytes: %v", n, l.Size, err)
			}
		}
	})
}
