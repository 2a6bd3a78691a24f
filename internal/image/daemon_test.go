package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/oci"
)

// aDaemon is a Docker daemon that has one image, as far as sealbatch asks it.
type aDaemon struct {
	socket   string
	name, id string
	archive  []byte
	mu       sync.Mutex
	asked    []string
	fail     func(http.ResponseWriter) // instead of sending the image
}

func newDaemon(t *testing.T, name string) *aDaemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "d") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	tr, config := aDockerArchive()
	d := &aDaemon{socket: filepath.Join(dir, "s"), name: name, id: "sha256:" + strings.TrimSuffix(config, ".json"), archive: tr.tar(t)}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: d}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		err := s.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = served
		}
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return d
}

// ServeHTTP answers as Docker 20.10 and 26.1 do.
func (d *aDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.asked = append(d.asked, r.URL.RequestURI())
	d.mu.Unlock()
	name, what := filepath.Split(strings.TrimPrefix(r.URL.Path, "/images/"))
	switch name = strings.TrimSuffix(name, "/"); {
	case name != d.name:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"message":"No such image: %s"}`+"\n", name)
	case what == "json":
		fmt.Fprintf(w, `{"Id":%q,"Size":5,"RepoTags":null}`, d.id)
	case d.fail != nil:
		d.fail(w)
	default:
		w.Write(d.archive)
	}
}

func TestDaemon(t *testing.T) {
	t.Parallel()
	for given, asked := range map[string]string{
		"docker-daemon:talinx/jp2a:1.0": "talinx/jp2a:1.0", "docker-daemon://talinx/jp2a:1.0": "talinx/jp2a:1.0",
		"talinx/jp2a:1.0": "talinx/jp2a:1.0", "jp2a": "jp2a",
	} {
		d := newDaemon(t, asked)
		for _, socket := range []string{d.socket, "unix://" + d.socket} {
			var log bytes.Buffer
			o := Options{DockerSocket: socket, SpoolDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))}
			img, err := Open(t.Context(), given, o)
			if err != nil {
				t.Fatalf("%s: %v", given, err)
			}
			if img.Name != "jp2a" || img.Reference != "docker-daemon:"+asked || img.Digest != d.id || img.DigestOf != OfConfig {
				t.Errorf("%s: %+v", given, img)
			}
			if s := log.String(); !strings.Contains(s, "docker-daemon:"+asked) || !strings.Contains(s, d.id) {
				t.Errorf("%s: it is not said what was taken: %s", given, s)
			}
			checkLayers(t, img)
			left, err := os.ReadDir(o.SpoolDir)
			if err = errors.Join(err, img.Close()); err != nil || len(left) != 0 {
				t.Errorf("%s: %v %v", given, left, err)
			}
		}
	}
}

// TestDaemonPlatform: Docker 28 has several platforms of an image, and is told which.
func TestDaemonPlatform(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "jp2a")
	if _, err := Open(t.Context(), "jp2a", Options{DockerSocket: d.socket, SpoolDir: t.TempDir(),
		Platform: "arm64"}); !errors.Is(err, oci.ErrPlatform) {
		t.Errorf("amd64 for arm64: %v", err)
	}
	want := "/images/jp2a/get?" + url.Values{"platform": {`{"architecture":"arm64","os":"linux"}`}}.Encode()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.asked) != 2 || d.asked[1] != want {
		t.Errorf("asked %q", d.asked)
	}
}

func TestDaemonRefuses(t *testing.T) {
	t.Parallel()
	message := func(status int, text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"message":%q}`, text)
		}
	}
	for name, c := range map[string]struct {
		image      string
		fail       func(http.ResponseWriter)
		id         string
		want, hint string
	}{
		"no such image":    {"other", nil, "", "no image of that name", "docker images"},
		"a name of a path": {"../containers/json", nil, "", "no image of that name", "docker images"},
		"no name":          {"", nil, "", "it names none", "name a file"},
		"an error":         {"jp2a", message(500, "the disk is\nfull"), "", "the disk is", ""},
		"a plain error":    {"jp2a", func(w http.ResponseWriter) { http.Error(w, "x", http.StatusServiceUnavailable) }, "", "503", ""},
		"cut off": {"jp2a", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length",
				"100")
			w.Write([]byte("x"))
		}, "", "unexpected EOF", ""},
		"no archive":    {"jp2a", func(w http.ResponseWriter) { io.WriteString(w, strings.Repeat("x", 2000)) }, "", "damaged", ""},
		"another image": {"jp2a", nil, oci.DigestOf(nil), "another image", "again"},
	} {
		d := newDaemon(t, "jp2a")
		d.fail = c.fail
		if c.id != "" {
			d.id = c.id
		}
		_, err := Open(t.Context(), "docker-daemon:"+c.image, Options{DockerSocket: d.socket, SpoolDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(fault.Hint(err), c.hint) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v (hint %q)", name, err, fault.Hint(err))
		}
	}
	_, err := Open(t.Context(), "docker-daemon:x", Options{DockerSocket: filepath.Join(t.TempDir(), "none")})
	if !errors.Is(err, errNoAnswer) || !strings.Contains(fault.Hint(err), "not running") || fault.ClassOf(err) != fault.Usage {
		t.Errorf("no daemon: %v", err)
	}
	denied := &url.Error{Op: "Get", URL: "http://docker/x", Err: &net.OpError{Op: "dial",
		Err: os.NewSyscallError("connect", syscall.EACCES)}}
	if err := dial("/s").noAnswer(denied); !strings.Contains(fault.Hint(err), "group docker") ||
		strings.Contains(err.Error(), "http://") {
		t.Errorf("permission denied: %v", err)
	}
}

// TestSigned: of a daemon and of files nothing is fetched or read where a signature is asked for, and no registry is asked instead.
func TestSigned(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "jp2a")
	tr, _ := aDockerArchive()
	archive := filepath.Join(t.TempDir(), "jp2a.tar")
	if err := os.WriteFile(archive, tr.tar(t), 0o600); err != nil {
		t.Fatal(err)
	}
	layout, _ := aLayout("1.0")
	dir := layout.dir(t)
	for _, name := range []string{"jp2a", "docker-daemon:jp2a", archive, "docker-archive:" + archive, "oci:" + dir, dir} {
		_, err := Open(t.Context(), name, Options{DockerSocket: d.socket, SpoolDir: t.TempDir(), Signed: true})
		if !errors.Is(err, ErrUnsignable) || fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.Hint(err), "docker://") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, asked := range d.asked {
		if !strings.HasSuffix(asked, "/json") {
			t.Errorf("the daemon was asked for %s", asked)
		}
	}
}

// TestBareNames: a file, else the daemon, else the registry; what is meant as a file is nothing else.
func TestBareNames(t *testing.T) {
	d := newDaemon(t, "jp2a")
	t.Chdir(t.TempDir())
	tr, _ := aDockerArchive()
	for name, body := range map[string][]byte{"archive": tr.tar(t), "jp2a.tar": tr.tar(t)} {
		if err := os.WriteFile(name, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("jp2a", 0o700); err != nil {
		t.Fatal(err)
	}
	layout, _ := aLayout("1.0")
	layoutDir := layout.dir(t)
	if err := os.Symlink(layoutDir, "layout"); err != nil {
		t.Fatal(err)
	}
	o := Options{DockerSocket: d.socket, SpoolDir: t.TempDir()}
	for name, want := range map[string]string{
		"archive": "docker-archive:", "jp2a.tar": "docker-archive:", "jp2a.tar:a:1": "docker-archive:", "./archive@0": "docker-archive:",
		"./archive": "docker-archive:", "layout": "oci:",
		"jp2a": "docker-daemon:", // the directory of that name is none
	} {
		img, err := Open(t.Context(), name, o)
		if err != nil || !strings.HasPrefix(img.Reference, want) {
			t.Errorf("%s: %+v, %v", name, img, err)
			continue
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
	for name, want := range map[string]string{
		"none.tar": "no such file", "./none": "no such file", "/none/x": "no such file",
		"none.sif": "no such file", "none.tar:1": "no such file", "jp2a.tar:2": "no image 2",
		"Foo/Bar": "no such file, and", "jp2a@sha256:1": "no such file, and",
		"./jp2a": "it holds neither",
		"jp2a/":  "it holds neither", "oci:none:1.0": "no such file", "docker-archive:none.tar": "no such file",
		"oci-archive:":  "names none",
		"library://a/b": "nothing is read", "shub://a/b": "nothing is read",
		"oras://a/b": "nothing is read", "ftp://a/b": "nothing is read",
		"https://a/b.tar": "nothing is read", "containers-storage:a": "nothing is read", "dir:/a": "nothing is read",
		"magic://a": "no source magic://",
	} {
		_, err := Open(t.Context(), name, o)
		if err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Usage || fault.Hint(err) == "" {
			t.Errorf("%s: %v (hint %q)", name, err, fault.Hint(err))
		}
	}
}

// TestRegistry: what is neither a file nor an image of a daemon comes from the registry that it names.
func TestRegistry(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "nothing")
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	want, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	if want, err = mutate.ConfigFile(want, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: diffIDs(t, want)}); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/talinx/jp2a:1.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, want); err != nil {
		t.Fatal(err)
	}
	digest, err := want.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, asked := range []string{ref.Name(), "docker://" + ref.Name(), host + "/talinx/jp2a@" + digest.String()} {
		img, err := Open(t.Context(), asked, Options{DockerSocket: d.socket, SpoolDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if img.Digest != digest.String() || img.Reference != strings.TrimPrefix(asked, "docker://") ||
			img.Name != "jp2a" || img.Remote == nil {
			t.Errorf("%s: %+v", asked, img)
		}
		checkLayers(t, img)
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err = Open(t.Context(), host+"/talinx/none", Options{DockerSocket: d.socket})
	if err == nil || strings.Count(err.Error(), "talinx/none") != 1 {
		t.Errorf("no such image: %v", err)
	}
}

func diffIDs(t *testing.T, img v1.Image) v1.RootFS {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c.RootFS
}

// TestSocket: the user's word, then DOCKER_HOST's.
func TestSocket(t *testing.T) {
	d := newDaemon(t, "jp2a")
	t.Setenv("DOCKER_HOST", "unix://"+d.socket)
	img, err := Open(t.Context(), "docker-daemon:jp2a", Options{SpoolDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Error(err)
	}
	t.Setenv("DOCKER_HOST", "tcp://10.0.0.1:2375")
	if _, err := Open(t.Context(), "docker-daemon:jp2a", Options{}); !errors.Is(err, errNoSocket) ||
		!strings.Contains(fault.Hint(err), "docker save") {
		t.Errorf("%v", err)
	}
	var log bytes.Buffer
	for _, host := range []string{"tcp://10.0.0.1:2375", "unix:///none/at/all"} {
		log.Reset()
		t.Setenv("DOCKER_HOST", host)
		img, err := Options{Log: slog.New(slog.NewTextHandler(&log, nil))}.tryDaemon(t.Context(), "jp2a")
		if img != nil || err != nil || !strings.Contains(log.String(), "was not asked") {
			t.Errorf("%s: %v, %v: %s", host, img, err, log.String())
		}
	}
	if _, err := (Options{DockerSocket: "/none/at/all"}).tryDaemon(t.Context(), "jp2a"); !errors.Is(err, errNoAnswer) {
		t.Errorf("a daemon that the user named: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Options{}).tryDaemon(gone, "jp2a"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"talinx/jp2a": "jp2a", "docker.io/talinx/jp2a:1.0": "jp2a", "localhost:5000/a/b:1": "b", "localhost:5000/b": "b",
		"jp2a@sha256:00": "jp2a", "r/jp2a:1@sha256:00": "jp2a",
	} {
		if got := repositoryName(in); got != want {
			t.Errorf("%s is called %s", in, got)
		}
	}
	for in, want := range map[string]string{
		"/a/jp2a.tar": "jp2a", "/a/jp2a.tar.gz": "jp2a", "/a/jp2a": "jp2a", "/a/my image.tgz": "my_image",
		"/a/.tar": "tar", "/a/ü.tar": "_", "/": "image",
		"/a/-x.tar": "x", "/a/" + strings.Repeat("x", 300): strings.Repeat("x", 100),
	} {
		if got := fileName(in); got != want && (want != "_" || got != "image") {
			t.Errorf("%s is called %s", in, got)
		}
	}
}

func TestSplitName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		t    transport
		rest string
	}{
		"ubuntu:22.04": {viaNothing, "ubuntu:22.04"}, "docker": {viaNothing, "docker"}, "docker:27": {viaNothing, "docker:27"}, "dir:1.0": {viaNothing,
			"dir:1.0"}, "sif:1": {viaNothing, "sif:1"},
		"docker://ubuntu": {viaRegistry, "ubuntu"}, "oci:a:b": {viaFile, "a:b"}, "oci:///a": {viaFile, "/a"},
		"docker-daemon:a/b:c": {viaDaemon, "a/b:c"},
		"localhost:5000/a":    {viaNothing, "localhost:5000/a"}, "./oci:x": {viaNothing, "./oci:x"}, "jp2a": {viaNothing, "jp2a"},
	} {
		if got, rest, err := splitName(in); err != nil || got != want.t || rest != want.rest {
			t.Errorf("%s: %q, %q, %v", in, got, rest, err)
		}
	}
	for _, in := range []string{"", " ", "oci:", "docker://", "docker-daemon: "} {
		if _, _, err := splitName(in); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "names none") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestIsSIF(t *testing.T) {
	t.Parallel()
	tr, _ := aDockerArchive()
	sif := makeSIF(t, 1, 2, "amd64")
	other := filepath.Join(t.TempDir(), "image")
	if err := os.Link(sif, other); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]bool{
		sif: true, other: true, "none.sif": true, "dir/none.sif": true, write(t, "x.sif", tr.tar(t)): false,
		write(t, "x.tar", tr.tar(t)): false, "none": false, t.TempDir(): false, "docker://x.sif": false,
		"oci:x.sif": false, "library://a/x.sif": false,
	} {
		if got := IsSIF(in); got != want {
			t.Errorf("%s: %v", in, got)
		}
	}
	if _, err := Open(t.Context(), other, Options{}); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "SIF") {
		t.Errorf("%v", err)
	}
}
