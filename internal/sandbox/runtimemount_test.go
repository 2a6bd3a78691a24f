package sandbox

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fusetest"
)

// The runtime is played by this process: it mounts, and runs PassMain.
func TestRuntimeMounts(t *testing.T) {
	t.Parallel()
	if !forUsers(t) {
		return
	}
	s := openMode(t, Runtime)
	cipher, key := fusetest.PrivateDir(t), newKey(t)
	if err := s.AddRuntimeTree("/sd/in", &fusetest.Tree{Files: []string{"content"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddRuntimeGocryptfs("/sd/out", openRoot(t, cipher), key); err != nil {
		t.Fatal(err)
	}
	if err := s.AddRuntimeTree("/a b", &fusetest.Tree{}); err == nil {
		t.Error("a name that would be split is taken")
	}
	if _, err := s.FuseSpecs("/a program"); err == nil {
		t.Error("a program's name that would be split is taken")
	}
	specs, err := s.FuseSpecs("/bin/sealbatch")
	want := fmt.Sprintf("host-daemon:/bin/sealbatch fuse-pass %s 1 /sd/out", s.Path("fuse"))
	if err != nil || len(specs) != 2 || specs[1] != want {
		t.Fatalf("specs %q, %v, want %q", specs, err, want)
	}
	if err := s.AddRuntimeTree("/sd/late", &fusetest.Tree{}); err == nil {
		t.Error("a mount is taken that the runtime is not told of")
	}
	passOn(t, s, cipher)
}

// passOn passes connections of both mounts on, as the runtime does, and uses them.
func passOn(t *testing.T, s *Space, cipher string) {
	t.Helper()
	mountOutput(t, s, "log")
	for i, rel := range []string{"m/in", "m/out"} {
		fuse, err := s.connect(rel, request{Type: "sealbatch"})
		if err != nil {
			t.Fatal(err)
		}
		err = PassMain([]string{s.Path("fuse"), fmt.Sprint(i), fmt.Sprintf("/dev/fd/%d", fuse.Fd())})
		fuse.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	got, exit := shell(t, s, "log", `cp "$1"/in/0 "$1"/out/copy && cat "$1"/out/copy`, s.Path("m"))
	if got != "content" || exit.Code != 0 {
		t.Errorf("output %q, %+v", got, exit)
	}
	for _, rel := range []string{"m/in", "m/out"} {
		if err := s.disconnect(rel, false); err != nil {
			t.Error(err)
		}
	}
	if err := s.KillAll(); err != nil { // waits for the servers
		t.Error(err)
	}
	if found := grep(t, cipher, "content"); found != "" {
		t.Errorf("%s holds plaintext", found)
	}
}

func TestPassMainRefuses(t *testing.T) {
	t.Parallel()
	if !forUsers(t) {
		return
	}
	s := openMode(t, Runtime)
	if err := s.AddRuntimeTree("/sd/in", &fusetest.Tree{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.FuseSpecs("/bin/sealbatch"); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for what, args := range map[string][]string{
		"not FUSE":      {s.Path("fuse"), "0", fmt.Sprintf("/dev/fd/%d", null.Fd())},
		"no descriptor": {s.Path("fuse"), "0", "/dev/fd/999"},
		"a path":        {s.Path("fuse"), "0", "/dev/null"},
		"number":        {s.Path("fuse"), "256", "/dev/fd/3"},
		"no socket":     {s.Path("none"), "0", fmt.Sprintf("/dev/fd/%d", null.Fd())},
		"too few":       {s.Path("fuse")},
	} {
		if err := PassMain(args); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if err := <-s.Failed(); !strings.Contains(err.Error(), "not a FUSE connection") && !strings.Contains(err.Error(), "EOF") {
		t.Errorf("the space says %v", err)
	}
	if st, err := os.Stat(s.Path("fuse")); err != nil || st.Mode()&os.ModeSocket == 0 {
		t.Errorf("socket: %v, %v", st, err)
	}
}
