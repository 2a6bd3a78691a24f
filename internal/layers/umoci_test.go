package layers

import (
	"archive/tar"
	"encoding/json"
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

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// TestLikeUmoci merges random stacks of layers as umoci unpacks them, with which Apptainer does it. All stacks lie side
// by side in one image, each in a directory.
func TestLikeUmoci(t *testing.T) {
	t.Parallel()
	const stacks, high = 100, 4
	layers := make([][]member, high)
	for i := range stacks {
		g := &generator{rand: rand.New(rand.NewPCG(uint64(i), 42)), top: fmt.Sprintf("s%03d/t/u/v", i), high: high}
		for n, members := range g.stack(t) {
			layers[n] = append(layers[n], members...)
		}
	}
	var plain [][]byte
	var all []Layer
	for _, members := range layers {
		b := pack(t, members...)
		plain = append(plain, b)
		all = append(all, stored(b, b, ociTar))
	}
	want := onDisk(t, unpackedByUmoci(t, plain))
	got := strings.Split(listing(t, merged(t, all...)), "\n")
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			from := max(0, i-5)
			top, _, _ := strings.Cut(min(got[min(i, len(got)-1)], want[min(i, len(want)-1)]), "/")
			t.Fatalf("here\n%s\numoci\n%s\nlayers\n%s", strings.Join(got[from:min(i+5, len(got))], "\n"),
				strings.Join(want[from:min(i+5, len(want))], "\n"), shown(layers, top))
		}
	}
	if len(got) < 2*stacks {
		t.Errorf("%d entries of %d stacks are left", len(got), stacks)
	}
}

// generator makes layers that refer to each other a lot.
type generator struct {
	rand *rand.Rand
	top  string
	high int
}

func (g *generator) pick(of ...string) string { return of[g.rand.IntN(len(of))] }

// path is a short one of few names.
func (g *generator) path() string {
	parts := []string{g.top}
	for range 1 + g.rand.IntN(3) {
		parts = append(parts, g.pick("a", "b", "c"))
	}
	return strings.Join(parts, "/")
}

// member is anything that can be in a layer.
func (g *generator) member() member {
	path := g.path()
	switch g.rand.IntN(14) {
	case 0, 1, 2:
		return dir(path)
	case 3, 4:
		return link(path, g.pick("a", "b/c", "../a", "../../c", "/"+g.top+"/b", "./c/.", "/"+g.path(), "missing/../a"))
	case 5, 6:
		return hard(path, g.path())
	case 7, 8:
		at, name := filepath.Split(path)
		return gone(at + ".wh." + name)
	case 9:
		return gone(path + "/.wh..wh..opq")
	}
	return file(path, fmt.Sprint(g.rand.IntN(1000))).mode(int64(g.rand.IntN(0o1000)) | 0o400)
}

// stack is a stack of layers that can be unpacked. Left out is what ends umoci: what lies below a file, and hard
// links that replace what they link to.
func (g *generator) stack(t *testing.T) (layers [][]member) {
	m := &merger{lim: Limits{}.withDefaults(), root: impliedDir()}
	for n := range g.high {
		var layer []member
		must(t, m.enter(n))
		for range 2 + g.rand.IntN(8) {
			next := g.member()
			if below(m, next.Name) || next.Typeflag == tar.TypeLink && replaces(m, next) {
				continue
			}
			if h := next.Header; m.entry(&h, nil) == nil {
				layer = append(layer, next)
			}
		}
		layers = append(layers, layer)
	}
	return layers
}

// below reports whether a file is in the way of a name.
func below(m *merger, name string) bool {
	parts := strings.Split(strings.Trim(name, "/"), "/")
	way, err := walk(m.root, parts[:len(parts)-1], m.lim)
	return err != nil || slices.ContainsFunc(way, func(s step) bool { return s.inWay != nil })
}

// replaces reports whether a hard link removes what it links to, or a link on the way there.
func replaces(m *merger, next member) bool {
	parts := strings.Split(next.Name, "/")
	way, err := walk(m.root, parts[:len(parts)-1], m.lim)
	dir, name := way[len(way)-1].node, parts[len(parts)-1]
	if err != nil || dir == nil || dir.Entries[name] == nil {
		return err != nil
	}
	old := dir.Entries[name]
	delete(dir.Entries, name)
	defer func() { dir.Entries[name] = old }()
	_, err = m.linked(&next.Header)
	return err != nil
}

// unpackedByUmoci returns the directory into which umoci unpacks an image of layers.
func unpackedByUmoci(t *testing.T, layers [][]byte) string {
	t.Helper()
	image, root := t.TempDir(), filepath.Join(t.TempDir(), "root")
	type desc map[string]any
	put := func(mediaType string, b []byte) desc {
		name := filepath.Join(image, "blobs", "sha256", strings.TrimPrefix(digestOf(b), "sha256:"))
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, b, 0o644))
		return desc{"mediaType": mediaType, "digest": digestOf(b), "size": len(b)}
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		must(t, err)
		return b
	}
	var descs []desc
	var ids []string
	for _, b := range layers {
		descs, ids = append(descs, put(ociTar, b)), append(ids, digestOf(b))
	}
	config := put("application/vnd.oci.image.config.v1+json", encode(desc{"architecture": "amd64", "os": "linux",
		"config": desc{}, "rootfs": desc{"type": "layers", "diff_ids": ids}}))
	manifest := put("application/vnd.oci.image.manifest.v1+json",
		encode(desc{"schemaVersion": 2, "config": config, "layers": descs}))
	manifest["annotations"] = desc{"org.opencontainers.image.ref.name": "x"}
	index := encode(desc{"schemaVersion": 2, "manifests": []desc{manifest}})
	must(t, os.WriteFile(filepath.Join(image, "index.json"), index, 0o644))
	must(t, os.WriteFile(filepath.Join(image, "oci-layout"), []byte(`{"imageLayoutVersion": "1.0.0"}`), 0o644))
	args := []string{"raw", "unpack", "--image", image + ":x", root}
	if os.Geteuid() != 0 {
		args = slices.Insert(args, 2, "--rootless")
	}
	if out, err := exec.Command("umoci", args...).CombinedOutput(); err != nil {
		t.Fatalf("umoci (make setup installs it): %v\n%s", err, out)
	}
	return root
}

// onDisk is the listing of a directory.
func onDisk(t *testing.T, root string) []string {
	t.Helper()
	tree := &Tree{Root: impliedDir()}
	inodes, contents := map[uint64]*squashfs.Node{}, map[*squashfs.Node]string{}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		must(t, err)
		st := info.Sys().(*syscall.Stat_t)
		n, known := inodes[st.Ino]
		if !known {
			n = &squashfs.Node{Mode: st.Mode, Entries: map[string]*squashfs.Node{}}
			inodes[st.Ino] = n
			switch st.Mode & squashfs.TypeMask {
			case squashfs.TypeSymlink:
				n.Target, err = os.Readlink(path)
			case squashfs.TypeRegular:
				var b []byte
				b, err = os.ReadFile(path)
				contents[n] = string(b)
			}
		}
		tree.lim = Limits{}.withDefaults()
		rel, _ := filepath.Rel(root, path)
		parent, err2 := tree.Lookup(filepath.Dir(rel))
		must(t, err2)
		parent.Entries[d.Name()] = n
		return err
	}))
	return strings.Split(listed(t, tree.Root, contents), "\n")
}

// shown prints the layers of one stack.
func shown(layers [][]member, top string) string {
	var b strings.Builder
	for i, members := range layers {
		fmt.Fprintf(&b, "%d:\n", i)
		for _, m := range members {
			if strings.HasPrefix(m.Name, top+"/") {
				fmt.Fprintf(&b, "  %c %s %s %s\n", m.Typeflag, m.Name, m.Linkname, m.content)
			}
		}
	}
	return b.String()
}
