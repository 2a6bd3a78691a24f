package e2e

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/sylabs/sif/v2/pkg/sif"

	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/sifbuild"
	"github.com/sealbatch/sealbatch/internal/squashfs"
	"github.com/sealbatch/sealbatch/volume"
)

// needed are the files of jp2a.tar that shell and a few tools need.
var needed = []string{"/bash", "/sh", "/printf", "/cat", "/ls", "/env", "/id", "/ld-linux", "/libc.so", "/libtinfo", "/libselinux", "/libpcre2",
	"/libcap", "/etc/"}

// member is a file, a directory (its name ends in "/"), a symbolic ("->") or a hard link ("=>") of a layer.
type member struct {
	name, content string
	mode          int64
}

// layerOf makes a layer.
func layerOf(t *testing.T, members ...member) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: cmp.Or(m.mode, 0o755), Typeflag: tar.TypeReg, Size: int64(len(m.content))}
		if from, to, ok := strings.Cut(m.name, " -> "); ok {
			h.Name, h.Linkname, h.Typeflag, h.Mode = from, to, tar.TypeSymlink, 0o777
		} else if from, to, ok := strings.Cut(m.name, " => "); ok {
			h.Name, h.Linkname, h.Typeflag = from, to, tar.TypeLink
		} else if strings.HasSuffix(m.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		check(t, w.WriteHeader(h))
		_, err := io.WriteString(w, m.content)
		check(t, err)
	}
	check(t, w.Close())
	return layer(t, b.Bytes())
}

func layer(t *testing.T, b []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	check(t, err)
	return l
}

// baseLayer is what is needed of the test image jp2a.tar.
func baseLayer(t *testing.T) v1.Layer {
	t.Helper()
	img, err := tarball.ImageFromPath(testImage(t, "jp2a.tar"), nil)
	check(t, err)
	ls, err := img.Layers()
	check(t, err)
	r, err := ls[0].Uncompressed()
	check(t, err)
	defer r.Close()
	var b bytes.Buffer
	in, out := tar.NewReader(r), tar.NewWriter(&b)
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		check(t, err)
		if h.Typeflag != tar.TypeReg || slices.ContainsFunc(needed, func(n string) bool { return strings.Contains(h.Name, n) }) {
			check(t, out.WriteHeader(h))
			_, err = io.Copy(out, in)
			check(t, err)
		}
	}
	check(t, out.Close())
	return layer(t, b.Bytes())
}

// imageOf makes an image for this machine's kind of nodes, unless arch says otherwise.
func imageOf(t *testing.T, arch string, c v1.Config, ls ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, ls...)
	check(t, err)
	f, err := img.ConfigFile()
	check(t, err)
	f.OS, f.Architecture, f.Config = "linux", arch, c
	img, err = mutate.ConfigFile(img, f)
	check(t, err)
	return img
}

// nodeArch is the architecture of the cluster, which is this machine's.
func nodeArch(t *testing.T) string {
	t.Helper()
	img, err := tarball.ImageFromPath(testImage(t, "jp2a.tar"), nil)
	check(t, err)
	c, err := img.ConfigFile()
	check(t, err)
	return c.Architecture
}

// convert makes a SIF file of an image as container-prep does.
func convert(t *testing.T, name, platform, dst string, o squashfs.Options) {
	t.Helper()
	img, err := image.Open(t.Context(), name, image.Options{Platform: platform})
	check(t, err)
	defer img.Close()
	f, err := os.Create(dst)
	check(t, err)
	defer f.Close()
	check(t, sifbuild.Source{Image: img, FileName: "image.sif", Options: o}.Walk(t.Context(), func(e volume.Entry) (uint32, error) {
		if e.Late == nil {
			return 0, nil
		}
		_, err := f.Seek(e.Late.HeadSize, io.SeekStart)
		check(t, err)
		head, err := e.Late.Write(t.Context(), f)
		check(t, err)
		_, err = f.WriteAt(head, 0)
		return 1, err
	}))
}

// TestSIFLikeApptainers: what is made of an image holds the same files as what apptainer build makes of it, and does the
// same when it is run.
func TestSIFLikeApptainers(t *testing.T) {
	t.Parallel()
	must(t, "laptop", "alice", "mkdir", "-p", "sif/oci")
	dir := onDisk(t, "laptop", "/home/alice/sif")
	img := imageOf(t, nodeArch(t), v1.Config{
		Entrypoint: []string{"printf", "<%s>\\n", "it's $HOME"}, Cmd: []string{"c m d", "`id`"},
		Env: []string{"PATH=/opt/bin:/usr/bin", "HOME=/root", "SPACES=a  b", "EMPTY=", "LD_LIBRARY_PATH=/opt/lib", "NUMBER=1"}, User: "1000:1000",
		WorkingDir: "/opt", Labels: map[string]string{"some.label": "its \"value\""},
	}, baseLayer(t), layerOf(t,
		member{"opaque/", "", 0o700}, member{"opaque/below", "1", 0o600}, member{"gone", "2", 0}, member{"kept", "3", 0o444}, member{"first", "4", 0},
		member{"second => first", "", 0}, member{"real/", "", 0o1777}, member{"link -> real", "", 0}, member{"absolute -> /real", "", 0},
		member{"privileged", "5", 0o4755}, member{"file", "6", 0}, member{"dir/", "", 0}, member{"dir/in", "7", 0}, member{"unseen\xff\n", "8", 0},
	), layerOf(t,
		member{"opaque/.wh..wh..opq", "", 0}, member{"opaque/new", "9", 0}, member{".wh.gone", "", 0}, member{"third => second", "", 0},
		member{".wh.first", "", 0}, member{"link/through", "10", 0}, member{"absolute/through", "11", 0}, member{"file/", "", 0o711},
		member{"file/in", "12", 0}, member{"dir", "13", 0}, member{"big", strings.Repeat("sealbatch", 100_000), 0}, member{"empty", "", 0}))
	p, err := layout.Write(dir+"/oci", empty.Index)
	check(t, err)
	check(t, p.AppendImage(img))
	convert(t, "oci:"+dir+"/oci", "linux/"+nodeArch(t), dir+"/ours.sif", squashfs.Options{})
	must(t, "laptop", "root", "sh", "-c", "cd /home/alice/sif && apptainer -q build reference.sif oci:oci 2>&1 && chmod 755 . *.sif")

	ours, reference := unpack(t, dir+"/ours.sif"), unpack(t, dir+"/reference.sif")
	delete(ours, "/sd-container") // for the mounts of jobs
	for _, name := range slices.Sorted(maps.Keys(reference)) {
		if ours[name] != reference[name] {
			t.Errorf("%q: %s, of apptainer %s", name, ours[name], reference[name])
		}
		delete(ours, name)
	}
	if len(ours) > 0 {
		t.Errorf("more than apptainer has: %q", ours)
	}
	said := behave(t, "sif/ours.sif", actions)
	for i, was := range behave(t, "sif/reference.sif", actions) {
		if said[i] != was {
			t.Errorf("apptainer %s: %s\nof apptainer's: %s", actions[i], said[i], was)
		}
	}
	const want = "<it's $HOME>\n<$HOME>\n<`id`>\n<a  b>\n= 0\n"
	if got := behave(t, "sif/ours.sif", []string{"run SIF '$HOME' '`id`' 'a  b'"})[0]; got != want {
		t.Errorf("without NO_EVAL, too, arguments stay as they are: %s", got)
	}
}

// actions are what apptainer is asked to do with a SIF file. APPTAINER_NO_EVAL is what jobs have.
var actions = []string{
	"exec SIF env", "exec --containall --cleanenv SIF env", "exec --env NUMBER=2 --env PATH=/x:/usr/bin SIF env", "exec --pwd /opt SIF ls -a",
	"exec SIF no-such-program", "exec SIF id", "shell SIF", "inspect SIF | grep some.label",
	"NO_EVAL run SIF", "NO_EVAL run SIF '$HOME' '`id`' 'a  b'", "NO_EVAL run --app none SIF >/dev/null 2>&1", "test SIF >/dev/null",
}

// behave returns what apptainer says, does and ends with, for each action. The names of the files are left out.
func behave(t *testing.T, sif string, actions []string) []string {
	t.Helper()
	script := "cd /home/alice; export NUMBER=3 APPTAINERENV_EMPTY=x"
	for _, a := range actions {
		a, noEval := strings.CutPrefix(a, "NO_EVAL ")
		program := " apptainer -q "
		if noEval {
			program = " APPTAINER_NO_EVAL=1" + program
		}
		script += "\necho 'echo \"$SPACES $LD_LIBRARY_PATH\"' |" + program + strings.ReplaceAll(a, "SIF", sif) + " 2>&1; echo \"= $?\"; printf '\\0'"
	}
	said := strings.Split(must(t, "laptop", "alice", "bash", "-c", script), "\x00")
	if len(said) != len(actions)+1 {
		t.Fatalf("%d answers to %d actions: %q", len(said), len(actions), said)
	}
	for i := range said {
		said[i] = strings.ReplaceAll(strings.ReplaceAll(said[i], filepath.Base(sif), "SIF"), "sif/SIF", "SIF")
	}
	return said[:len(actions)]
}

// TestSIFOfStrangeImage: an image of a hundred layers, compressed by zstd, whose variables and words no shell would let through; apptainer build
// leaves all variables of such a one out.
func TestSIFOfStrangeImage(t *testing.T) {
	t.Parallel()
	must(t, "laptop", "alice", "mkdir", "-p", "strange")
	dir := onDisk(t, "laptop", "/home/alice/strange")
	values := []string{"", "a  b", "it's", `"`, "`id`", "$(id) $HOME ${HOME}", "a\nb\n", "a\r\nb", `\`, "\\\n", "#", "*", "~", "{a,b}", `$'x'`, `\u000A`, "a;b|c&>d",
		"\x01\x7f\x1b[0m", "ü\u2028\U0001F600", "-n", `'"'"'\''`, "!x"}
	for i := range values {
		values = append(values, values[i]+values[(i*7+3)%22]+values[(i*5+1)%22])
	}
	c := v1.Config{Env: []string{"HOME=/root", "UID=0", "IFS=:", "PWD=/", "APPTAINER_NAME=other", "a b=c"}, Entrypoint: append([]string{"/usr/bin/printf", `<%s>`}, values...)}
	wantEnv, wantRun := map[string]string{}, ""
	for i, v := range values {
		c.Env = append(c.Env, fmt.Sprintf("V%d=%s", i, v))
		wantEnv[fmt.Sprintf("V%d", i)] = v
		wantRun += "<" + v + ">"
	}
	ls := []v1.Layer{baseLayer(t)}
	for i := range 99 {
		ls = append(ls, layerOf(t, member{fmt.Sprintf("layers/%d", i), strconv.Itoa(i), 0}, member{fmt.Sprintf("layers/.wh.%d", i-1), "", 0}))
	}
	p, err := layout.Write(dir+"/oci", empty.Index)
	check(t, err)
	check(t, p.AppendImage(imageOf(t, nodeArch(t), c, ls...)))
	convert(t, dir+"/oci", "linux/"+nodeArch(t), dir+"/strange.sif", squashfs.Options{Compression: squashfs.Zstd})
	must(t, "laptop", "root", "chmod", "755", "/home/alice/strange/strange.sif")
	contained := []string{"apptainer", "-q", "exec", "--containall", "--cleanenv", "strange/strange.sif"}
	got := map[string]string{}
	for _, v := range strings.Split(run(t.Context(), "laptop", "alice", nil, append(contained, "cat", "/proc/self/environ")...).out, "\x00") {
		name, value, _ := strings.Cut(v, "=")
		got[name] = value
	}
	for name, v := range wantEnv {
		if value, ok := got[name]; !ok || value != v {
			t.Errorf("%s is %q, want %q", name, value, v)
		}
	}
	if got["HOME"] != "/home/alice" || got["APPTAINER_NAME"] != "strange.sif" {
		t.Errorf("HOME is %q, APPTAINER_NAME %q", got["HOME"], got["APPTAINER_NAME"])
	}
	contained[2] = "run"
	if got := run(t.Context(), "laptop", "alice", nil, contained...).out; got != wantRun {
		t.Errorf("run: %q, want %q", got, wantRun)
	}
	contained[2] = "exec"
	if got := must(t, "laptop", "alice", append(contained, "ls", "/layers")...); got != "98" {
		t.Errorf("of a hundred layers there is %q", got)
	}
}

// TestImageWithoutShell: an image of one static program in an archive of docker save is prepared and runs as a job; the same
// for another architecture is refused when it is submitted.
func TestImageWithoutShell(t *testing.T) {
	t.Parallel()
	static, err := os.ReadFile(onDisk(t, "laptop", "/usr/bin/tini-static"))
	check(t, err)
	must(t, "laptop", "alice", "mkdir", "-p", "images")
	program := layerOf(t, member{"tini", string(static), 0})
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[nodeArch(t)]
	prep := func(arch string, flags ...string) result {
		c := v1.Config{Entrypoint: []string{"/tini"}, Cmd: []string{"-h"}, Env: []string{"TINI_VERBOSITY=it's $1"}}
		file := "images/scratch-" + arch + ".tar"
		ref, err := name.NewTag("example.org/scratch:1")
		check(t, err)
		check(t, tarball.WriteToFile(onDisk(t, "laptop", "/home/alice/images")+"/scratch-"+arch+".tar", ref, imageOf(t, arch, c, program)))
		return alice.sb(t, append([]string{"container-prep", "-b", "docker-archive:" + file, "--data-path", "images/scratch-" + arch + ".sealed",
			"--data-path-at-rest", alice.scratch(), "-u", "alice", "-c", "*", "--platform", "linux/" + arch}, flags...)...)
	}
	bill := []byte(`{"bomFormat": "CycloneDX", "components": [{"name": "tini"}]}`)
	check(t, os.WriteFile(onDisk(t, "laptop", "/home/alice/images")+"/bill", bill, 0o644))
	r := prep(nodeArch(t), "--sbom", "images/bill")
	if r.code != 0 || !strings.Contains(r.err, "the image has no /bin/sh") {
		t.Fatalf("container-prep: %s", r)
	}
	if again := prep(nodeArch(t), "--sbom", "images/bill"); again.code != 0 || !strings.Contains(again.err, "already there, unchanged") {
		t.Errorf("the same again: %s", again)
	}
	foreign := prep(other)
	if foreign.code != 0 {
		t.Fatalf("container-prep --platform: %s", foreign)
	}
	data := alice.dataset(t, "scratch", map[string]string{"a": "1"})
	refused := alice.sb(t, "job-prep", "-ai", strings.TrimSpace(foreign.out), "-di", data, "--workdir", alice.scratch(), "-t", "10", "--seal-time", "60")
	if refused.code != 8 || !strings.Contains(refused.err, "is for linux/"+other) || !strings.Contains(refused.err, "--platform") {
		t.Errorf("job-prep with an image for %s: %s", other, refused)
	}
	j := alice.submit(t, strings.TrimSpace(r.out), data, "-args", "--version")
	if code := j.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	nodes, opened := j.results()
	for _, dir := range nodes {
		if got := read(t, dir, "stdout"); !strings.HasPrefix(got, "tini version") {
			t.Errorf("it printed %q", got)
		}
	}
	if said := fmt.Sprintf("with sbom.cdx.json sha256:%x", sha256.Sum256(bill)); len(nodes) != 1 || !strings.Contains(opened.err, said) {
		t.Errorf("results: %s", opened)
	}
}

// unpack returns what is in a SIF file's file system, but for what the runtime needs: what each path is, and by which other names.
func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := sif.LoadContainerFromPath(path, sif.OptLoadWithFlag(os.O_RDONLY))
	check(t, err)
	defer f.UnloadContainer()
	d, err := f.GetDescriptor(sif.WithPartitionType(sif.PartPrimSys))
	check(t, err)
	dir := t.TempDir() + "/root"
	out, err := exec.Command("unsquashfs", "-no-progress", "-o", strconv.FormatInt(d.Offset(), 10), "-d", dir, path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	entries, names := map[string]string{}, map[uint64][]string{}
	check(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		if name == "/.singularity.d" {
			return fs.SkipDir
		}
		i, err := e.Info()
		check(t, err)
		what := (i.Mode() &^ (fs.ModeSetuid | fs.ModeSetgid)).String()
		switch {
		case i.Mode().IsRegular():
			b, err := os.ReadFile(path)
			check(t, err)
			what += fmt.Sprintf(" %x", sha256.Sum256(b))
			ino := i.Sys().(*syscall.Stat_t).Ino
			names[ino] = append(names[ino], name)
		case i.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			check(t, err)
			what += " -> " + target
		}
		entries[name] = what
		return nil
	}))
	for _, group := range names {
		if len(group) > 1 {
			for _, name := range group {
				entries[name] += fmt.Sprintf(" = %q", group)
			}
		}
	}
	return entries
}
