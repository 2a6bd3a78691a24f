package sandbox

import (
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fusetest"
)

func TestSpaceServesTree(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	dir := fusetest.SampleDir(t)
	if err := s.MountTree("in/sample", fusetest.Seal(t, dir)); err != nil {
		t.Fatal(err)
	}
	got, exit := shell(t, s, "", `cd "$1" || exit; cmp plain "$2/plain" && cmp link "$2/plain" && ./run.sh && ls -q | wc -l`,
		s.Path("in/sample"), dir)
	if got != "ran\n6" || exit.Code != 0 {
		t.Fatalf("output %q, %+v", got, exit)
	}
	fusetest.Compare(t, dir, s.Outside("in/sample"))
	if err := s.Unmount("in/sample"); err != nil {
		t.Fatal(err)
	}
}

func TestPermissionsHold(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	// In a space even root has no capability to pass over permissions.
	if err := s.MountTree("in", &fusetest.Tree{Files: []string{"secret"}, Mode: 0o100000}); err != nil {
		t.Fatal(err)
	}
	if got, exit := shell(t, s, "", `cat "$1"/0`, s.Path("in")); exit.Code == 0 || !strings.Contains(got, "Permission denied") {
		t.Errorf("a file with mode 000: %q, %+v", got, exit)
	}
}
