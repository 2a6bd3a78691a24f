package e2e

import (
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// here replaces what HPCS's example says of LUMI by what is so for a user here, and the names of the images.
func (c composing) here(text []byte) string {
	at := c.who.scratch() + "/" + c.name
	return strings.NewReplacer(
		"ghcr.io/cscfi/hpcs/", "localhost/sealbatch/",
		"/scratch/project_462000031/etellier", at, "/pfs/lustrep4/scratch/project_462000031/etellier", at,
		"project_462000031", "project_1", "etellier", string(c.who), "nid003044", "cn1", "lumi.csc.fi", "login",
		"https://hpcs-server:port", "https://keys:8443\nca-cert = keys-ca.pem",
	).Replace(string(text))
}

// composing is somebody who uses compose: their home directory, and the directory with the compose file.
type composing struct {
	docker
	who       person // at the site, and by their key
	name      string
	program   string
	home, dir string
	uid       int // here
}

// newComposing gives somebody a key, HPCS's configuration and the input of HPCS's example.
func newComposing(t *testing.T, d docker, who person, program, name string, uid int) composing {
	t.Helper()
	home := "/home/" + name
	c := composing{docker: d, who: who, name: name, program: program, home: home, dir: home + "/" + name, uid: uid}
	laptop := func(path string) []byte {
		b, err := os.ReadFile(onDisk(t, "laptop", path))
		check(t, err)
		return b
	}
	d.put(t, uid, 0o600, c.home+"/.ssh/id_ed25519", laptop("/home/"+string(who)+"/.ssh/id_ed25519"))
	d.put(t, uid, 0o644, c.home+"/.ssh/known_hosts", laptop("/home/"+string(who)+"/.ssh/known_hosts"))
	picture, err := os.ReadFile(testImage(t, "image.png"))
	check(t, err)
	d.put(t, uid, 0o644, c.dir+"/workdir/jp2a_input/image.png", picture)
	d.put(t, uid, 0o644, c.dir+"/workdir/keys-ca.pem", laptop("/etc/sealbatch-keys-ca.pem"))
	conf, err := os.ReadFile("testdata/hpcs/client.conf")
	check(t, err)
	d.put(t, uid, 0o644, c.dir+"/workdir/hpcs-client.conf", []byte(c.here(conf)))
	scripts := who.scratch() + "/" + name + "/verification_scripts"
	write(t, "login", string(who), scripts+"/check.sh", "#!/bin/sh\nls /sd-container\n")
	must(t, "login", string(who), "chmod", "755", scripts+"/check.sh")
	return c
}

// step runs a service as one types it; it must succeed.
func (c composing) step(t *testing.T, words ...string) result {
	t.Helper()
	id := strconv.Itoa(c.uid)
	env := []string{"env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + c.home, "PWD=" + c.dir,
		"UID=" + id, "GID=" + id}
	r := c.run(t.Context(), c.dir, append(append(env, c.program, "run", "--rm"), words...)...)
	if r.code != 0 {
		t.Fatalf("compose run --rm %q: %s", words, r)
	}
	return r
}

// resultsService is what a user of HPCS adds to the compose file.
const resultsService = `  results:
    image: localhost/sealbatch/results:latest
    volumes:
      - $PWD/workdir:/tmp
      - $HOME/.ssh:/tmp/.ssh
    environment:
      - PWD=${PWD}
      - HOME=${HOME}
`

// all runs the three steps, and after what happens then opens the results.
func (c composing) all(t *testing.T, then func()) {
	t.Helper()
	c.step(t, "data-prep")
	c.step(t, "container-prep")
	job := strings.TrimSpace(c.step(t, "job-prep").out)
	if then != nil {
		then()
	}
	c.step(t, "results", job, "-o", "/tmp/results-"+job)
	root := filepath.Join("/proc", c.pid, "root", c.dir, "workdir", "results-"+job)
	pictures, err := filepath.Glob(root + "/*/result")
	check(t, err)
	if len(pictures) != 1 {
		t.Fatalf("job %q left %q", job, pictures)
	}
	if b, err := os.ReadFile(pictures[0]); err != nil || len(b) < 1000 {
		t.Errorf("the picture: %v, %q", err, b)
	}
}

// TestCompose: HPCS's users run their compose file, with other names for the images and the site's values, and get
// their results.
func TestCompose(t *testing.T) {
	t.Parallel()
	d := startDocker(t)
	images := filepath.Join(t.TempDir(), "images.tar")
	if out, err := exec.Command("go", "run", "../tools/image", "-bin", "../bin", "-o", images).CombinedOutput(); err != nil {
		t.Fatalf("tools/image: %v\n%s", err, out)
	}
	d.load(t, images)
	d.load(t, testImage(t, "jp2a.tar"))
	v2, err := exec.Command("../tools/compose/build").Output()
	check(t, err)
	hpcs, err := os.ReadFile("testdata/hpcs/compose.yaml")
	check(t, err)
	t.Run("v1", func(t *testing.T) {
		t.Parallel()
		c := newComposing(t, d, alice, "docker-compose", "one", 1001)
		d.put(t, c.uid, 0o644, c.dir+"/docker-compose.yml", []byte(c.here(hpcs)+resultsService))
		c.all(t, nil)
	})
	t.Run("v2 as 1001", func(t *testing.T) {
		t.Parallel()
		c := newComposing(t, d, bob, strings.TrimSpace(string(v2)), "two", 1001)
		user := "    user: \"1001\""
		text := strings.Replace(c.here(hpcs)+resultsService, user, "", 1)
		text = strings.ReplaceAll(text, "    environment:\n", user+"\n    environment:\n")
		d.put(t, c.uid, 0o644, c.dir+"/compose.yaml", []byte(text))
		// Another machine has not got what this one remembers.
		c.all(t, func() { check(t, os.RemoveAll(filepath.Join("/proc", c.pid, "root", c.dir, "workdir/.local"))) })
	})
	t.Run("own", func(t *testing.T) {
		t.Parallel()
		c := newComposing(t, d, alice, "docker-compose", "own", 1002)
		own, err := os.ReadFile("../compose.yaml")
		check(t, err)
		// One owner's inputs of the same name would be versions of one another.
		names := strings.NewReplacer("talinx/jp2a", "lab/picture", "jp2a_input", "own_input", "prepared_jp2a",
			"prepared_picture")
		d.put(t, c.uid, 0o644, c.dir+"/docker-compose.yml", []byte(names.Replace(c.here(own))))
		d.must(t, c.dir+"/workdir", "mv", "jp2a_input", "own_input")
		c.append(t, c.dir+"/workdir/hpcs-client.conf", "[registry]\nmirror = docker.io=https://registry.example.com:5000\n")
		certs := c.dir + "/workdir/.config/containers/certs.d/registry.example.com:5000"
		d.put(t, c.uid, 0o644, certs+"/ca.crt", serveImage(t))
		c.all(t, nil)
	})
}

// append adds to a file beside the daemon.
func (c composing) append(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join("/proc", c.pid, "root", path), os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	defer f.Close()
	_, err = f.WriteString(text)
	check(t, err)
}

// serveImage serves lab/picture from registry.example.com:5000, and returns the authority of its certificate.
func serveImage(t *testing.T) []byte {
	t.Helper()
	img, err := tarball.ImageFromPath(testImage(t, "jp2a.tar"), nil)
	check(t, err)
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	near := httptest.NewServer(h)
	defer near.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(near.URL, "http://") + "/lab/picture")
	check(t, err)
	check(t, remote.Write(ref, img))
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	onLaptop(t, func() (err error) {
		s.Listener, err = net.Listen("tcp4", "10.77.0.2:5000")
		return err
	})
	s.StartTLS()
	t.Cleanup(s.Close)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}
