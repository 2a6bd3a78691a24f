package volume

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The tests in this file need root, /dev/fuse, fuse3, GNU tar, and Debian's
// gocryptfs package. They fail where these are missing: `make test` installs
// them.

// buildDir is removed when all tests have ended; empty if nothing was built.
var buildDir string

// pinnedGocryptfs builds the gocryptfs that go.mod pins, the way it is shipped.
var pinnedGocryptfs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gocryptfs-build-")
	if err != nil {
		return "", err
	}
	buildDir = dir
	bin := filepath.Join(dir, "gocryptfs")
	cmd := exec.Command("go", "build", "-C", "../tools/gocryptfs", "-tags", "without_openssl", "-o", bin, "github.com/rfjakob/gocryptfs/v2")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return bin, cmd.Run()
})

func TestMain(m *testing.M) {
	code := m.Run()
	if buildDir != "" {
		_ = os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

// gocryptfsBinaries returns the binaries to test with, by version.
func gocryptfsBinaries(t *testing.T) map[string]string {
	t.Helper()
	pinned, err := pinnedGocryptfs()
	if err != nil {
		t.Fatalf("build the pinned gocryptfs: %v", err)
	}
	debian, err := exec.LookPath("gocryptfs")
	if err != nil {
		t.Fatalf("install Debian's gocryptfs package: %v", err)
	}
	return map[string]string{"pinned": pinned, "debian": debian}
}

// mountGocryptfs mounts a cipher directory until the test ends.
func mountGocryptfs(t *testing.T, bin, cipherDir string, key Key, flags ...string) string {
	t.Helper()
	mnt := t.TempDir()
	args := append([]string{"-q", "-masterkey=stdin"}, flags...)
	cmd := exec.Command(bin, append(args, cipherDir, mnt)...)
	cmd.Stdin = strings.NewReader(key.Hex() + "\n")
	// It returns when the mount is there, leaving a process that keeps the
	// pipes of its parent.
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		b, _ := os.ReadFile(log.Name())
		t.Fatalf("%v: %v\n%s", cmd.Args, err, b)
	}
	t.Cleanup(func() { unmount(t, mnt) })
	return mnt
}

func unmount(t *testing.T, mnt string) {
	t.Helper()
	if out, err := exec.Command("fusermount3", "-u", mnt).CombinedOutput(); err != nil {
		t.Errorf("unmount: %v\n%s", err, out)
	}
}

// unpack unpacks a sealed volume with GNU tar.
func unpack(t *testing.T, sealed []byte) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "v.tar")
	must(t, os.WriteFile(file, sealed, 0o600))
	out, err := exec.Command("tar", "--extract", "--preserve-permissions", "--file", file, "--directory", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	must(t, os.Remove(file))
	return dir
}

func TestStockTools(t *testing.T) {
	t.Parallel()
	dir := oddTree(t)
	s, b := sealBytes(t, dir)
	for name, bin := range gocryptfsBinaries(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unpacked := unpack(t, b)
			mnt := mountGocryptfs(t, bin, filepath.Join(unpacked, treeName), s.Key, "-ro")
			compareTrees(t, dir, mnt, false)
		})
	}
}
