package sandbox

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fusetest"
	"github.com/sealbatch/sealbatch/volume"
)

const (
	envGocryptfs  = "SEALBATCH_TEST_GOCRYPTFS"
	envSupervisor = "SEALBATCH_TEST_SUPERVISOR"
)

// gocryptfsPath is the program built from the version that go.mod pins.
var gocryptfsPath string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildArg {
		if ChildMain() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(envSupervisor); dir != "" {
		gocryptfsPath = os.Getenv(envGocryptfs)
		supervisorMain(dir)
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if gocryptfsPath = os.Getenv(envGocryptfs); gocryptfsPath != "" {
		return fusetest.Run(m) // as an unprivileged user
	}
	dir, err := os.MkdirTemp("", "sandbox-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	gocryptfsPath = filepath.Join(dir, "gocryptfs")
	build := exec.Command("go", "build", "-C", "../../tools/gocryptfs", "-tags", "without_openssl",
		"-o", gocryptfsPath, "github.com/rfjakob/gocryptfs/v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build gocryptfs: %v\n%s", err, out)
		return 1
	}
	return fusetest.Run(m, envGocryptfs+"="+gocryptfsPath)
}

// newSpace makes a Space that the test's end closes, which must succeed.
func newSpace(t testing.TB) *Space {
	t.Helper()
	s := openSpace(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// openSpace makes a Space that the test has to close.
func openSpace(t testing.TB) *Space {
	t.Helper()
	s, err := NewSpace(context.Background(), SpaceOptions{
		Dir: fusetest.PrivateDir(t), Gocryptfs: gocryptfsPath, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newKey(t testing.TB) volume.Key {
	t.Helper()
	key, err := volume.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// mountOutput mounts a new cipher directory at rel and returns it.
func mountOutput(t testing.TB, s *Space, rel string) string {
	t.Helper()
	cipher := fusetest.PrivateDir(t)
	if err := s.MountGocryptfs(rel, openRoot(t, cipher), newKey(t)); err != nil {
		t.Fatal(err)
	}
	return cipher
}

// shell runs a script inside and returns its standard output and exit. The
// output goes through the tmpfs, or through a volume if at names one.
func shell(t testing.TB, s *Space, at, script string, args ...string) (string, Exit) {
	t.Helper()
	rel := filepath.Join(at, fmt.Sprintf("out-%d", time.Now().UnixNano()))
	p, err := s.Start(Cmd{
		Argv:   append([]string{"sh", "-c", script, "sh"}, args...),
		Env:    []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Stdout: s.Path(rel), Stderr: s.Path(rel),
	})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(s.Outside(rel))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out)), exit
}

// openRoot opens a directory until the test ends.
func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}
