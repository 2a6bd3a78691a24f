package source

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

func TestScanFingerprint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(dir, name)
		must(t, errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(text), 0o600)))
	}
	scan := func() (volume.Usage, volume.Digest) {
		t.Helper()
		u, f, err := Scan(t.Context(), dir)
		must(t, err)
		return u, f
	}
	write("a", "1234")
	write("d/b", "12345678")
	usage, before := scan()
	if _, again := scan(); usage.Entries != 3 || usage.PlainBytes != 12 || again != before {
		t.Errorf("%+v, %v, %v", usage, before, again)
	}
	if n, err := Dir(dir).(volume.Measurer).Measure(t.Context()); err != nil || n != usage {
		t.Errorf("Measure %+v, Scan %+v, %v", n, usage, err)
	}
	seen := map[volume.Digest]string{before: "before"}
	for _, c := range []struct {
		name   string
		change func() error
	}{
		{"same size and time", func() error {
			st, err := os.Stat(filepath.Join(dir, "a"))
			if err != nil {
				return err
			}
			write("a", "4321")
			return os.Chtimes(filepath.Join(dir, "a"), st.ModTime(), st.ModTime())
		}},
		{"renamed", func() error { return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "c")) }},
		{"mode", func() error { return os.Chmod(filepath.Join(dir, "d"), 0o750) }},
		{"removed", func() error { return os.Remove(filepath.Join(dir, "d/b")) }},
		{"link", func() error { return os.Symlink("x", filepath.Join(dir, "l")) }},
	} {
		must(t, c.change())
		_, f := scan()
		if was, ok := seen[f]; ok {
			t.Errorf("%s: the same fingerprint as %s", c.name, was)
		}
		seen[f] = c.name
	}
	if got := ChangedSince(t.Context(), dir, time.Now().Add(-time.Hour)); got != filepath.Join(dir, "c") {
		t.Errorf("changed since: %q", got)
	}
	if got := ChangedSince(t.Context(), dir, time.Now().Add(time.Hour)); got != "" {
		t.Errorf("changed in the future: %q", got)
	}
}

// TestScanFindsTrouble runs as a user who may not read everything: root may.
func TestScanFindsTrouble(t *testing.T) {
	if os.Getenv("SEALBATCH_TEST_SCAN") != "" {
		_, _, err := Scan(t.Context(), os.Getenv("SEALBATCH_TEST_SCAN"))
		for _, kind := range []error{ErrUnreadable, volume.ErrSpecial} {
			if !errors.Is(err, kind) {
				t.Errorf("%v is not %v", err, kind)
			}
		}
		t.Logf("SCANNED %v", err)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	for _, f := range []string{"1", "2", "3", "4", "new\nline"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o000); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.WriteFile(filepath.Join(dir, "fine"), nil, 0o644), os.Mkdir(filepath.Join(dir, "closed"), 0o700),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "..", "test")
	// By another process: what this one had open for writing might not run yet (ETXTBSY).
	err = errors.Join(exec.Command("cp", os.Args[0], copied).Run(), os.Chmod(copied, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "-test.run=^TestScanFindsTrouble$", "-test.v")
	cmd.Env = append(os.Environ(), "SEALBATCH_TEST_SCAN="+dir, "GOCOVERDIR=/tmp")
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	want := "not allowed to read: \"" + dir + "/1\", \"" + dir + "/2\", \"" + dir + "/3\" and 3 more"
	if err != nil || !bytes.Contains(out, []byte(want)) || !strings.Contains(string(out), "/pipe\"") {
		t.Errorf("%v\n%s\nwant %s", err, out, want)
	}
}

// TestScanSettles: what is changed from when a scan has ended gets another change time, even where the kernel's
// clock ticks slowly, so that a later scan sees it.
func TestScanSettles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for n := range 5 {
		file := filepath.Join(dir, "f")
		if err := os.WriteFile(file, []byte{byte(n), 0}, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		_, before, err := Scan(t.Context(), dir)
		if since := time.Since(time.Unix(statOf(st).Ctim.Unix())); err != nil || since < tick {
			t.Errorf("scanned %s after the last change, %v", since, err)
		}
		if err := errors.Join(os.WriteFile(file, []byte{byte(n), 1}, 0o600), os.Chtimes(file, st.ModTime(), st.ModTime())); err != nil {
			t.Fatal(err)
		}
		if _, after, err := Scan(t.Context(), dir); err != nil || before == after {
			t.Fatalf("round %d: the change is not seen, %v", n, err)
		}
	}
}

// TestScanOfDeepAndLong: a path that is longer than the system takes is no obstacle; a target that no volume can
// hold is found before anything is sealed.
func TestScanOfDeepAndLong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at, err := os.OpenRoot(dir)
	must(t, err)
	for range 25 {
		name := strings.Repeat("d", 200)
		must(t, at.Mkdir(name, 0o700))
		below, err := at.OpenRoot(name)
		must(t, errors.Join(err, at.Close()))
		at = below
	}
	must(t, at.WriteFile("leaf", []byte("12345"), 0o600))
	must(t, at.Close())
	usage, _, err := Scan(t.Context(), dir)
	if n, merr := Dir(dir).(volume.Measurer).Measure(t.Context()); err != nil || merr != nil || n != usage || usage.PlainBytes != 5 {
		t.Errorf("%+v, %v; measured %+v, %v", usage, err, n, merr)
	}
	if got := ChangedSince(t.Context(), dir, time.Now().Add(-time.Hour)); !strings.HasSuffix(got, "/leaf") {
		t.Errorf("changed since: %q", got)
	}
	must(t, os.Symlink(strings.Repeat("x", 3039), filepath.Join(dir, "fits")))
	if _, _, err = Scan(t.Context(), dir); err != nil {
		t.Error(err)
	}
	must(t, os.Symlink(strings.Repeat("x", 4095), filepath.Join(dir, "long")))
	if _, _, err = Scan(t.Context(), dir); !errors.Is(err, ErrTarget) || !strings.Contains(err.Error(), `/long"`) {
		t.Errorf("a target of 4095 bytes: %v", err)
	}
}

// TestScanOverOverlay: an overlay file system has other numbers for its directories whenever it has forgotten
// those of before. Nothing in the input has changed by that.
func TestScanOverOverlay(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root mounts an overlay; the tests run as root as well")
	}
	top := t.TempDir()
	must(t, syscall.Mount("tmpfs", top, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must(t, syscall.Unmount(top, 0)) })
	lower, dir := t.TempDir(), t.TempDir()
	for _, d := range []string{"upper", "work"} {
		must(t, os.Mkdir(filepath.Join(top, d), 0o700))
	}
	look := func(first bool, second string) (ino uint64, fingerprint volume.Digest) {
		t.Helper()
		must(t, syscall.Mount("overlay", dir, "overlay", 0,
			"xino=off,lowerdir="+lower+",upperdir="+filepath.Join(top, "upper")+",workdir="+filepath.Join(top, "work")))
		defer func() { must(t, syscall.Unmount(dir, 0)) }()
		if first {
			must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "d/f"), []byte("1"), 0o600))
			must(t, os.Mkdir(filepath.Join(dir, "e"), 0o700))
		}
		if _, err := os.Stat(filepath.Join(dir, second)); second != "" && err != nil { // gets the next number
			t.Fatal(err)
		}
		_, fingerprint, err := Scan(t.Context(), dir)
		must(t, err)
		fi, err := os.Stat(filepath.Join(dir, "d"))
		must(t, err)
		return statOf(fi).Ino, fingerprint
	}
	_, before := look(true, "")
	one, _ := look(false, "d")
	other, after := look(false, "e")
	if one == other {
		t.Fatal("the number of the directory stayed what it was, so that nothing was tried")
	}
	if after != before {
		t.Error("the input counts as changed")
	}
}
