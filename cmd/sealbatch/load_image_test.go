package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sylabs/sif/v2/pkg/sif"
	"golang.org/x/crypto/ssh"
)

// loadImage says that TestLoadImage prepares images as large as `make load` wants them.
var loadImage = flag.Bool("load-image", false, "TestLoadImage has 70,000 files, 2 GiB in 100 layers and a file of more than 4 GiB")

// imagePeak is what container-prep may take for any image, in KiB.
const imagePeak = 200_000_000 >> 10

// TestLoadImage has the program prepare an image of many files in one directory, many layers and one large
// file: it takes no more memory than for a small one, and everything is there.
func TestLoadImage(t *testing.T) {
	files, each, large := 5000, 100<<10, int64(24<<20)+1
	if *loadImage {
		files, each, large = 70_000, 20<<20, 4<<30+1
	}
	dir := t.TempDir()
	im := newLargeImage(t, filepath.Join(dir, "oci"))
	im.layer(func(w *tar.Writer) {
		for i := range files {
			im.text(w, fmt.Sprintf("many/%06d", i), fmt.Sprint("file ", i))
		}
	})
	library := sha256.New()
	for i := range 100 {
		im.layer(func(w *tar.Writer) {
			library.Reset()
			im.file(w, fmt.Sprintf("layers/%d/library", i), io.TeeReader(im.random, library), int64(each))
			im.text(w, "layers/newest", fmt.Sprint(i))
		})
	}
	sum := sha256.New()
	im.layer(func(w *tar.Writer) { im.file(w, "large", io.TeeReader(im.random, sum), large) })
	im.write()

	s := startBenched(t, "", 1)
	conf := clientOfLoad(t, dir, s)
	begin := time.Now()
	peak := memoryOf(t, exec.Command("sealbatch", "container-prep", "--config", conf, "-b", "oci:"+im.dir,
		"--platform", "linux/"+runtime.GOARCH, "-u", "alice", "-c", "cn1", "--data-path", filepath.Join(dir, "local.sif"),
		"--data-path-at-rest", filepath.Join(dir, "scratch")))
	t.Logf("%d MB prepared in %s with %d MB of memory", im.size/1e6, time.Since(begin).Round(time.Second), peak*1024/1e6)
	if !raceDetector && peak >= imagePeak {
		t.Errorf("it took %d KiB of memory, not less than %d", peak, imagePeak)
	}

	for _, done := range []string{im.dir, filepath.Join(dir, "local.sif")} { // large
		if err := os.RemoveAll(done); err != nil {
			t.Fatal(err)
		}
	}
	opened := filepath.Join(dir, "opened")
	if out, err := exec.Command("sealbatch", "open", filepath.Join(dir, "scratch", "local.sif"), "-o", opened, "-i", filepath.Join(dir, "id")).
		CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	look := squashfsOf(t, filepath.Join(opened, "image.sif"))
	if got := strings.Count(string(look("-l", "many")), "/many/"); got != files {
		t.Errorf("%d files of %d", got, files)
	}
	if got := string(look("-cat", "layers/newest")); got != "99" {
		t.Errorf("of a hundred layers, that of number %q counts", got)
	}
	if got := sha256.Sum256(look("-cat", "layers/99/library")); !bytes.Equal(got[:], library.Sum(nil)) {
		t.Error("a library is another one")
	}
	if got := look("-sum", "large"); !bytes.Equal(got, sum.Sum(nil)) {
		t.Error("the large file is another one")
	}
}

// clientOfLoad writes the configuration of somebody with an account, on the login node itself.
func clientOfLoad(t *testing.T, dir string, s *benched) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(s.accounts[0], "")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(err)
	conf := filepath.Join(dir, "client.conf")
	check(os.WriteFile(filepath.Join(dir, "id"), pem.EncodeToMemory(block), 0o600))
	check(os.WriteFile(conf, fmt.Appendf(nil, "[hpcs-server]\nurl = %s\nca-cert = %s\n[supercomputer]\nlocal = yes\ncluster = testcluster\n"+
		"[identity]\nssh-key = %s\n", s.URL, filepath.Join(s.dir, "ca.crt"), filepath.Join(dir, "id")), 0o600))
	check(os.Mkdir(filepath.Join(dir, "scratch"), 0o755))
	return conf
}

// memoryOf runs a command and returns the most resident memory that it had, in KiB. (What getrusage(2) tells of it later is not
// less than what its parent had.)
func memoryOf(t *testing.T, cmd *exec.Cmd) (peak int) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GOMEMLIMIT=") })
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	resident := regexp.MustCompile(`VmHWM:\s+(\d+) kB`)
	for {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if m := resident.FindSubmatch(status); m != nil {
			n, _ := strconv.Atoi(string(m[1]))
			peak = max(peak, n)
		}
		select {
		case err := <-ended:
			if err != nil || peak == 0 {
				t.Fatalf("%v, %d KiB\n%s", err, peak, &said)
			}
			return peak
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// squashfsOf returns unsquashfs on a SIF file's file system; its option -sum prints a digest of what -cat does.
func squashfsOf(t *testing.T, path string) func(option, name string) []byte {
	t.Helper()
	f, err := sif.LoadContainerFromPath(path, sif.OptLoadWithFlag(os.O_RDONLY))
	if err != nil {
		t.Fatal(err)
	}
	defer f.UnloadContainer()
	d, err := f.GetDescriptor(sif.WithPartitionType(sif.PartPrimSys))
	if err != nil {
		t.Fatal(err)
	}
	return func(option, name string) []byte {
		t.Helper()
		var out, said bytes.Buffer
		sum := sha256.New()
		cmd := exec.Command("unsquashfs", "-offset", fmt.Sprint(d.Offset()), option, path, name)
		cmd.Stdout, cmd.Stderr = &out, &said
		if option == "-sum" {
			cmd.Args[3], cmd.Stdout = "-cat", sum
		}
		if err := cmd.Run(); err != nil {
			t.Fatalf("%q: %v\n%s", cmd.Args, err, &said)
		}
		if option == "-sum" {
			return sum.Sum(nil)
		}
		return out.Bytes()
	}
}
