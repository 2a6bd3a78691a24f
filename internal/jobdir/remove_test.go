package jobdir

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/shellwords"
)

// shell runs commands on this machine, as a login node's shell would: from one line.
type shell struct{ line string }

func (s shell) Run(ctx context.Context, _ []string, _ io.Reader) ([]byte, []byte, int, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", s.line)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var ended *exec.ExitError
	err := cmd.Run()
	if errors.As(err, &ended) {
		return out.Bytes(), errOut.Bytes(), ended.ExitCode(), nil
	}
	return out.Bytes(), errOut.Bytes(), 0, err
}

// files lists what is below dir.
func files(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			all = append(all, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(all)
	return strings.Join(all, " ")
}

// laidOut makes a job's directory with a scratch volume, and returns the removal of it.
func laidOut(t *testing.T, dir string) Removal {
	t.Helper()
	for _, d := range []string{BinDir, ScriptsDir + "/input", NodesDir + "/cn1/scratch/d", NodesDir + "/cn2/scratch"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{
		BinDir + "/sealbatch", ScriptName, SignatureName, NodesDir + "/cn1/scratch/d/f", NodesDir + "/cn1/" + ReceiptName,
	} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := []byte("manifest of " + dir)
	if err := os.WriteFile(filepath.Join(dir, ManifestName), m, 0o600); err != nil {
		t.Fatal(err)
	}
	return Removal{Dir: dir, Manifest: manifest.DigestOf(m)}
}

func TestRemoval(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/it's $(touch x) a dir"
	r := laidOut(t, dir)
	if err := os.Chmod(dir+"/nodes/cn1/scratch/d", 0o500); err != nil { // as applications do
		t.Fatal(err)
	}
	r.Scratch = "cn1"
	if err := r.Do(t.Context(), shell{r.Command()}); err != nil {
		t.Fatal(err)
	}
	want := "bin bin/sealbatch job.sbatch manifest.json manifest.json.sig nodes nodes/cn1 nodes/cn1/receipt.jws " +
		"nodes/cn2 nodes/cn2/scratch scripts scripts/input"
	if got := files(t, dir); got != want {
		t.Errorf("left\n%s\nwant\n%s", got, want)
	}
	readOnly := dir + "/nodes/cn2/output"
	if err := errors.Join(os.Mkdir(readOnly, 0o700), os.WriteFile(readOnly+"/f", nil, 0o400), os.Chmod(readOnly, 0o500)); err != nil {
		t.Fatal(err)
	}
	r.Scratch = ""
	for range 2 { // once more is no harm
		if err := r.Do(t.Context(), shell{r.Command()}); err != nil {
			t.Error(err)
		}
	}
	if got := files(t, filepath.Dir(dir)); got != "" {
		t.Errorf("left: %s", got)
	}
	for what, begun := range map[string]func() error{
		"an empty one":           func() error { return nil },
		"with an empty manifest": func() error { return os.WriteFile(dir+"/"+ManifestName, nil, 0o600) },
	} {
		if err := errors.Join(os.Mkdir(dir, 0o700|fs.ModeSetgid), begun(), r.Do(t.Context(), shell{r.Command()})); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRemovalElsewhere: whatever others put in the place of the directory, nothing in it is
// removed but by a removal of its own. A plain rm -rf of each path loses all of it.
func TestRemovalElsewhere(t *testing.T) {
	t.Parallel()
	for what, swap := range map[string]func(dir, thesis string) error{
		"a link":                         func(dir, thesis string) error { return os.Symlink(thesis, dir) },
		"a directory of the submitter's": func(dir, thesis string) error { return os.Rename(thesis, dir) },
		"one that others can write": func(dir, thesis string) error {
			return errors.Join(os.Rename(thesis, dir), os.Chmod(dir, 0o770))
		},
		"a directory with a link in it": func(dir, thesis string) error {
			return errors.Join(os.Mkdir(dir, 0o755), os.Symlink(thesis, dir+"/nodes"))
		},
		"a private one with a link in it": func(dir, thesis string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Symlink(thesis, dir+"/nodes"))
		},
		"a link into it": func(dir, thesis string) error { return os.Symlink(thesis+"/nodes", dir) },
	} {
		for _, scratch := range []string{"", "cn1"} {
			top := t.TempDir()
			dir, thesis := top+"/job", top+"/thesis"
			r := laidOut(t, dir)
			_ = laidOut(t, thesis) // has files of all names that are removed
			if err := errors.Join(os.Rename(dir, top+"/genuine"), swap(dir, thesis)); err != nil {
				t.Fatal(err)
			}
			before := files(t, top)
			r.Scratch = scratch
			if err := r.Do(t.Context(), shell{r.Command()}); !errors.Is(err, ErrNotRemoved) {
				t.Errorf("%s (%q): %v", what, scratch, err)
			}
			if got := files(t, top); got != before {
				t.Errorf("%s (%q): left\n%s\nof\n%s", what, scratch, got, before)
			}
		}
	}
}

// TestRemovalNeedsAShell: a login that runs no commands, and says that all is well.
func TestRemovalNeedsAShell(t *testing.T) {
	t.Parallel()
	r := laidOut(t, t.TempDir()+"/job")
	for _, line := range []string{"true", "echo This service allows sftp connections only.", "exit 1"} {
		if err := r.Do(t.Context(), shell{line}); !errors.Is(err, ErrNotRemoved) {
			t.Errorf("%s: %v", line, err)
		}
	}
	r.Scratch = "../../../thesis"
	if err := r.Do(t.Context(), shell{r.Command()}); !errors.Is(err, ErrNotRemoved) {
		t.Errorf("climbs: %v", err)
	}
}

// TestRemovalOfACopy: a copy of the directory elsewhere, to which the path leads now, has its manifest, too, and stays.
func TestRemovalOfACopy(t *testing.T) {
	t.Parallel()
	dir, kept := t.TempDir()+"/project/job", t.TempDir()
	r := laidOut(t, dir)
	r.Real = dir
	copied := kept + "/job"
	if out, err := exec.Command("cp", "-a", dir, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := files(t, copied)
	project := filepath.Dir(dir)
	if err := errors.Join(os.Rename(project, project+".away"), os.Symlink(kept, project)); err != nil {
		t.Fatal(err)
	}
	if err := r.Do(t.Context(), shell{r.Command()}); !errors.Is(err, ErrNotRemoved) {
		t.Errorf("%v", err)
	}
	if after := files(t, copied); after != before {
		t.Errorf("left of the copy: %s", after)
	}
	if err := errors.Join(os.Remove(project), os.Rename(project+".away", project), r.Do(t.Context(), shell{r.Command()})); err != nil {
		t.Error(err)
	}
	if left := files(t, project); left != "" {
		t.Errorf("left: %s", left)
	}
}

// TestMakeReadable: what a node has left is made readable, and nothing elsewhere.
func TestMakeReadable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "job")
	r := laidOut(t, dir)
	output := filepath.Join(dir, NodesDir, "cn1", CipherDirName)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	err := errors.Join(os.WriteFile(elsewhere, nil, 0), os.MkdirAll(output+"/closed", 0o700),
		os.WriteFile(output+"/closed/file", nil, 0), os.Symlink(elsewhere, output+"/link"), os.Chmod(output+"/closed", 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.MakeReadable(t.Context(), bySh{}, "cn1"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{output + "/closed": 0o500, output + "/closed/file": 0o400, elsewhere: 0} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
	if err := r.MakeReadable(t.Context(), bySh{}, "../cn1"); !errors.Is(err, ErrNotReadable) {
		t.Errorf("a name that climbs: %v", err)
	}
	r.Manifest = manifest.DigestOf([]byte("another"))
	if err := r.MakeReadable(t.Context(), bySh{}, "cn1"); !errors.Is(err, ErrNotReadable) {
		t.Errorf("another job's directory: %v", err)
	}
}

// bySh runs command lines on this machine.
type bySh struct{}

func (bySh) Run(ctx context.Context, argv []string, stdin io.Reader) ([]byte, []byte, int, error) {
	return shell{shellwords.QuoteArgs(argv...)}.Run(ctx, nil, stdin)
}
