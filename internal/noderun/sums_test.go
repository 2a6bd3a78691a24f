package noderun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

// reader seals a directory and opens it.
func reader(t *testing.T, dir string) *volume.Reader {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	check(t, err)
	var b bytes.Buffer
	s, err := volume.Seal(t.Context(), &b, source.Dir(dir), volume.SealOptions{Recipients: []age.Recipient{id.Recipient()}})
	check(t, err)
	r, err := volume.Open(bytes.NewReader(b.Bytes()), s.Size, s.Key)
	check(t, err)
	return r
}

// sumsTree is a directory with odd names and links, listed by sha256sum itself.
func sumsTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.Mkdir(dir+"/d", 0o700))
	for name, data := range map[string]string{
		"plain": "1", "with space": "2", "line\nbreak": "3", `back\slash`: "4", "d/deep": "5", "empty": "",
		"large": strings.Repeat("x", 3<<20),
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600))
	}
	check(t, os.Symlink("d", dir+"/link"))
	check(t, os.Symlink("../link/deep", dir+"/d/loop"))
	cmd := exec.Command("sha256sum", "plain", "with space", "line\nbreak", `back\slash`, "d/deep", "empty", "large",
		"link/deep", "d/loop", "./d/../plain")
	cmd.Dir = dir
	out, err := cmd.Output()
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, sumsName), out, 0o600))
	return dir
}

func TestCheckSums(t *testing.T) {
	t.Parallel()
	dir := sumsTree(t)
	if n, err := checkSums(t.Context(), reader(t, dir)); n != 10 || err != nil {
		t.Fatalf("%d files, %v", n, err)
	}
	check(t, os.WriteFile(dir+"/d/deep", []byte("6"), 0o600))
	_, err := checkSums(t.Context(), reader(t, dir))
	if !errors.Is(err, errSums) || !strings.Contains(err.Error(), "line ") || strings.Contains(err.Error(), "deep") {
		t.Error(err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errCancelled)
	if _, err := checkSums(ctx, reader(t, sumsTree(t))); !errors.Is(err, errCancelled) {
		t.Error(err)
	}
	if n, err := checkSums(t.Context(), reader(t, t.TempDir())); n != 0 || err != nil {
		t.Errorf("without a list: %d files, %v", n, err)
	}
}

func TestCheckSumsRefusesLists(t *testing.T) {
	t.Parallel()
	for name, list := range map[string]string{
		"not sums":     "hello\n",
		"short sum":    "abcd  file\n",
		"not hex":      strings.Repeat("z", 64) + "  file\n",
		"no name":      sum("x") + "  \n",
		"one space":    sum("x") + " file\n",
		"bad escape":   `\` + sum("x") + `  fi\le` + "\n",
		"cut escape":   `\` + sum("x") + `  file\` + "\n",
		"blank line":   sum("x") + "  file\n\n",
		"outside":      sum("x") + "  ../file\n",
		"absolute":     sum("x") + "  /file\n",
		"a directory":  sum("x") + "  d\n",
		"leads out":    sum("x") + "  out\n",
		"a loop":       sum("x") + "  loop\n",
		"through file": sum("x") + "  file/x\n",
		"long line":    sum("x") + "  " + strings.Repeat("f", 20<<10) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			check(t, os.WriteFile(dir+"/file", []byte("x"), 0o600))
			check(t, os.Mkdir(dir+"/d", 0o700))
			check(t, os.Symlink("/file", dir+"/out"))
			check(t, os.Symlink("loop", dir+"/loop"))
			check(t, os.WriteFile(filepath.Join(dir, sumsName), []byte(list), 0o600))
			if n, err := checkSums(t.Context(), reader(t, dir)); !errors.Is(err, errSums) {
				t.Errorf("%d files, %v", n, err)
			}
		})
	}
}

func FuzzParseSum(f *testing.F) {
	f.Add(sum("x") + "  file")
	f.Add(`\` + sum("x") + ` *a\nb\\c`)
	f.Fuzz(func(t *testing.T, line string) {
		s, name, err := parseSum(line)
		if err != nil {
			return
		}
		// sha256sum would write the same name so, whatever spelling was read.
		escaped := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(name)
		again, same, err := parseSum(fmt.Sprintf(`\%x  %s`, s, escaped))
		if err != nil || again != s || same != name {
			t.Errorf("%q gives %q, which gives %q, %v", line, name, same, err)
		}
	})
}
