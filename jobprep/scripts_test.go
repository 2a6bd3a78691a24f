package jobprep

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// scriptsIn reads a directory that holds files; those that end in "+" are executable, "a -> b" is a symbolic link.
func scriptsIn(t *testing.T, files ...string) ([]scriptFile, string, error) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range files {
		name, target, link := strings.Cut(name, " -> ")
		base, exec := strings.CutSuffix(name, "+")
		at := filepath.Join(dir, base)
		check(t, os.MkdirAll(filepath.Dir(at), 0o755))
		switch {
		case link:
			check(t, os.Symlink(target, at))
		case exec:
			check(t, os.WriteFile(at, []byte(base), 0o755))
		default:
			check(t, os.WriteFile(at, []byte(base), 0o644))
		}
	}
	var said strings.Builder
	p := &planned{d: Deps{FS: transfer.Local{}, Log: slog.New(slog.NewTextHandler(&said, nil))}}
	found, err := p.readScripts(dir)
	return found, said.String(), err
}

// TestWhichScriptsRun: as in HPCS, all that is executable and matches .sh, in subdirectories too, but what matches run.sh.
// Everything else travels beside it. What looks like a script and does not run is said.
func TestWhichScriptsRun(t *testing.T) {
	t.Parallel()
	found, said, err := scriptsIn(t, "b.sh+", "a/z.sh+", "a/deep/x.sh.old+", "sums.sha256+", "list.txt", "a/tool+", "run.sh+", "prerun.sh+",
		"forgotten.sh", "shell+", "link.sh -> a/tool")
	check(t, err)
	var all, run []string
	for _, f := range found {
		if string(f.content) != f.ref.Name && f.ref.Name != "link.sh" {
			t.Errorf("%s holds %q", f.ref.Name, f.content)
		}
		if all = append(all, f.ref.Name); f.ref.Check() {
			run = append(run, f.ref.Name)
		}
	}
	if want := []string{"a/deep/x.sh.old", "a/tool", "a/z.sh", "b.sh", "forgotten.sh", "link.sh", "list.txt", "prerun.sh", "run.sh", "shell",
		"sums.sha256"}; !slices.Equal(all, want) {
		t.Errorf("files: %q", all)
	}
	if want := []string{"a/deep/x.sh.old", "a/z.sh", "b.sh", "link.sh", "shell", "sums.sha256"}; !slices.Equal(run, want) {
		t.Errorf("run: %q", run)
	}
	for _, want := range []string{"/forgotten.sh does not run, since it is not executable: chmod +x", "/prerun.sh does not run: HPCS keeps",
		`run="a/deep/x.sh.old, a/z.sh, b.sh, link.sh, shell, sums.sha256"`} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q: %s", want, said)
		}
	}
	if strings.Contains(said, "/run.sh does not run") {
		t.Errorf("it warns of HPCS's driver: %s", said)
	}
}

// TestScriptsRefused: nothing from outside of the directory travels, nor without a bound, and no check is left out silently.
func TestScriptsRefused(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range maxScriptFiles + 1 {
		many = append(many, fmt.Sprint(i))
	}
	outside := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(outside, nil, 0o755))
	for want, files := range map[string][]string{
		"none of those in":          {"a.sh", "run.sh+", "list.txt"},
		"leads out of":              {"a.sh+", "b.sh -> " + outside},
		"leads out of the dir":      {"a.sh+", "d/up.sh -> ../.."},
		"neither a file":            {"a.sh+", "d/b.sh+", "e -> d"},
		"x.sh: ":                    {"a.sh+", "x.sh -> nowhere"},
		"more than 500 files":       many,
		"more than 16 directories ": {"a.sh+", strings.Repeat("d/", maxScriptDepth+1) + "b.sh+"},
	} {
		if _, _, err := scriptsIn(t, files...); err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", want, err)
		}
	}
	found, said, err := scriptsIn(t, "list.txt")
	if err != nil || len(found) != 1 || !strings.Contains(said, "no verification script (*.sh) in") {
		t.Errorf("none: %v, %v, %s", found, err, said)
	}
	p := &planned{d: Deps{FS: transfer.Local{}, Log: slog.New(slog.DiscardHandler)}}
	if _, err := p.readScripts("/no/such/scripts"); err == nil || !strings.Contains(err.Error(), "there is no site:/no/such/scripts") {
		t.Errorf("a directory that is not there: %v", err)
	}
}
