package noderun

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// envScripts names the directory of the verification scripts that are shipped.
const envScripts = "SEALBATCH_TEST_SCRIPTS"

// runShipped runs a shipped verification script with nothing but coreutils and
// a shell in PATH, as in a small image.
func runShipped(t *testing.T, script string, args ...string) (output string, ok bool) {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"stat", "dirname", "readlink", "sort", "comm", "cut", "tr", "sha256sum", "mktemp", "rm"} {
		path, err := exec.LookPath(name)
		check(t, err)
		check(t, os.Symlink(path, filepath.Join(bin, name)))
	}
	cmd := exec.Command(filepath.Join(os.Getenv(envScripts), script), args...)
	cmd.Env = []string{"PATH=" + bin}
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// tree makes a directory. Values that begin with "->" are symbolic links.
func tree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o700))
	for name, data := range files {
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o700))
		if target, ok := strings.CutPrefix(data, "->"); ok {
			check(t, os.Symlink(target, path))
		} else {
			check(t, os.WriteFile(path, []byte(data), 0o600))
		}
	}
}

func TestShippedInputScript(t *testing.T) {
	t.Parallel()
	const script = "input/10-dataset.sh"
	for name, c := range map[string]struct {
		files map[string]string
		spoil func(dir string) error
		say   string
	}{
		"as expected": {map[string]string{"a b": "1", ".hidden": "", "d/e/f": "2", "link": "->d/e", "-n": "3", "n\nl": "4"}, nil,
			"1 datasets are as expected"},
		"empty":     {nil, nil, "empty"},
		"dangling":  {map[string]string{"link": "->nowhere"}, nil, "leads nowhere"},
		"leads out": {map[string]string{"link": "->../../outside"}, nil, "leads out"},
		"deep link": {map[string]string{"d/e/link": "->/etc/passwd"}, nil, "leads out"},
		"pipe": {map[string]string{"d/f": ""}, func(d string) error { return exec.Command("mkfifo", d+"/d/p").Run() },
			"neither a file"},
		"unreadable": {map[string]string{"d/f": ""}, func(d string) error { return os.Chmod(d+"/d/f", 0) },
			"a file that cannot be read"},
		"closed": {map[string]string{"d/f": ""}, func(d string) error { return os.Chmod(d+"/d", 0o300) },
			"a directory that cannot be read"},
		"oversized": {map[string]string{"d/f": ""}, func(d string) error { return os.Truncate(d+"/d/f", 1<<40+1) },
			"1099511627777 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			dir := base + "/sets/one"
			tree(t, dir, c.files)
			check(t, os.WriteFile(base+"/outside", nil, 0o600))
			if c.spoil != nil {
				check(t, c.spoil(dir))
				t.Cleanup(func() { _ = os.Chmod(dir+"/d", 0o700) })
			}
			out, ok := runShipped(t, script, base+"/sets")
			if ok != (name == "as expected") || !strings.Contains(out, c.say) {
				t.Errorf("passed: %v; it says %q", ok, out)
			}
		})
	}
	if out, ok := runShipped(t, script, t.TempDir()); ok || !strings.Contains(out, "no dataset") {
		t.Errorf("without a dataset it passed: %v; it says %q", ok, out)
	}
}

func TestShippedOutputScript(t *testing.T) {
	t.Parallel()
	const script = "output/90-results.sh"
	long := strings.Repeat("content ", 20)
	many := map[string]string{"d/odd\\\nname": long}
	for i := range 1200 { // more than one batch
		many[strings.Repeat("x", i%200+1)+string(rune('a'+i/200))] = long[:40] + strings.Repeat("y", i)
	}
	for name, c := range map[string]struct {
		results map[string]string
		spoil   func(dir string) error
		say     string
	}{
		"as expected":  {map[string]string{"r": "result", "same size": strings.ToUpper(long), "e": ""}, nil, "hold no copy"},
		"small copy":   {map[string]string{"r": "small"}, nil, "hold no copy"},
		"no results":   {nil, nil, "hold no copy"},
		"link":         {map[string]string{"r": "->../sets/one/d"}, nil, "hold no copy"},
		"copy":         {map[string]string{"d/copy here": long, "r": "result"}, nil, "/d/copy here\n"},
		"copy, hidden": {map[string]string{".x/.y": long}, nil, "/.x/.y\n"},
		"too large": {map[string]string{"r": ""}, func(d string) error { return os.Truncate(d+"/r", 100<<30+1) },
			"107374182401 bytes"},
		"closed": {map[string]string{"d/f": ""}, func(d string) error { return os.Chmod(d+"/d", 0) }, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			tree(t, base+"/sets/one", many)
			tree(t, base+"/sets/two", map[string]string{"small": "small"})
			dir := base + "/results"
			tree(t, dir, c.results)
			if c.spoil != nil {
				check(t, c.spoil(dir))
				t.Cleanup(func() { _ = os.Chmod(dir+"/d", 0o700) })
			}
			out, ok := runShipped(t, script, base+"/sets", dir)
			if ok != (c.say == "hold no copy") || !strings.Contains(out, c.say) {
				t.Errorf("passed: %v; it says %q", ok, out)
			}
		})
	}
}
