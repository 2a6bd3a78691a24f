package noderun

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

func TestTidy(t *testing.T) {
	t.Parallel()
	outer := t.TempDir()
	dir := filepath.Join(outer, "tree")
	check(t, os.MkdirAll(dir+"/closed/inner", 0o700))
	check(t, os.WriteFile(outer+"/elsewhere", nil, 0))
	check(t, os.WriteFile(dir+"/closed/inner/file", []byte("12345"), 0o200))
	check(t, os.WriteFile(dir+"/open", []byte("123"), 0o640))
	check(t, os.Symlink(outer+"/elsewhere", dir+"/link"))
	check(t, syscall.Mkfifo(dir+"/closed/pipe", 0o600))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", dir+"/socket")
	check(t, err)
	defer l.Close()
	check(t, os.Chmod(dir+"/closed", 0o300))
	check(t, os.Chmod(dir+"/closed/inner", 0))

	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	var got usage
	got.tidy(root)
	if want := (usage{bytes: 8, files: 8, opened: 3}); got != want {
		t.Fatalf("%+v; want %+v", got, want)
	}
	for name, want := range map[string]os.FileMode{
		dir + "/closed": 0o700, dir + "/closed/inner": 0o500, dir + "/closed/inner/file": 0o600, dir + "/open": 0o640,
		outer + "/elsewhere": 0,
	} {
		if st, err := os.Stat(name); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	above, err := os.OpenRoot(filepath.Dir(dir))
	check(t, err)
	defer above.Close()
	check(t, fsx.Dir{Root: above}.RemoveTree(filepath.Base(dir)))
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Error("it was not removed")
	}
}

func TestSealTimeGrowsWithBytesAndFiles(t *testing.T) {
	t.Parallel()
	if got := (usage{bytes: 15e9}).sealTime(); got < 90*time.Second || got > 110*time.Second {
		t.Errorf("15 GB: %v", got)
	}
	if got := (usage{files: 1e6}).sealTime(); got < time.Minute {
		t.Errorf("a million files: %v", got)
	}
}

// overQuota is a tree that can be read to some point: what a write that meets a
// quota looks like to sealing.
type overQuota struct{ volume.Source }

func (o overQuota) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	if err := o.Source.Walk(ctx, emit); err != nil {
		return err
	}
	return &os.PathError{Op: "write", Path: "/secret", Err: syscall.EDQUOT}
}

// TestQuotaLeavesNothingHalfSealed: the room of what was written is given back,
// and the error says what it was without a name.
func TestQuotaLeavesNothingHalfSealed(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	check(t, os.WriteFile(src+"/file", make([]byte, 1<<20), 0o600))
	who, err := age.GenerateX25519Identity()
	check(t, err)
	signals := make(chan os.Signal)
	sv := &supervisor{log: slog.New(slog.DiscardHandler), halt: newHalt(t.Context(), signals, testTimes)}
	s := sealer{supervisor: sv, dir: nodeDir{openDir(t, t.TempDir())}, rcpts: []age.Recipient{who.Recipient()}}
	defer s.halt.close()
	var out manifest.Output
	err = s.seal(overQuota{source.Dir(src)}, usage{bytes: 1 << 20, files: 2}, &out)
	if !errors.Is(terse(err), syscall.EDQUOT) || out != (manifest.Output{}) {
		t.Errorf("%v, %+v", err, out)
	}
	if left, err := fs.ReadDir(s.dir.FS(), "."); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := s.seal(source.Dir(src), usage{bytes: 1 << 60}, &out); !errors.Is(err, errNoSpace) {
		t.Errorf("an exabyte: %v", err)
	}
	s.alloc.ends = time.Now().Add(time.Minute)
	if err := s.seal(source.Dir(src), usage{bytes: 1 << 40}, &out); !errors.Is(err, errNoTime) {
		t.Errorf("a terabyte in a minute: %v", err)
	}
	if err := s.seal(source.Dir(src), usage{bytes: 1 << 20}, &out); err != nil || !out.Sealed {
		t.Errorf("in the end: %v", err)
	}
}

func TestTerseKeepsNamesOut(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		&os.PathError{Op: "open", Path: "/secret", Err: syscall.ENOSPC},
		fmt.Errorf("%q: %w", "secret", volume.ErrSpecial),
		errors.New("secret"),
	} {
		if got := terse(err).Error(); got == "" || filepath.Base(got) == "secret" || len(got) > 80 {
			t.Errorf("%v became %q", err, got)
		}
	}
	if !errors.Is(terse(&os.PathError{Err: syscall.ENOSPC}), syscall.ENOSPC) {
		t.Error("the system's word was lost")
	}
}
