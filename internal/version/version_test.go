package version

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
)

func TestOfBuild(t *testing.T) {
	t.Parallel()
	set := func(kv ...string) []debug.BuildSetting {
		var out []debug.BuildSetting
		for i := 0; i < len(kv); i += 2 {
			out = append(out, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		return out
	}
	for name, c := range map[string]struct {
		info debug.BuildInfo
		want string
	}{
		"a tag": {debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3"},
		"a pseudo-version": {debug.BuildInfo{Main: debug.Module{Version: "v0.0.0-20261129195500-554c4a7d2f01+dirty"}},
			"v0.0.0-20261129195500-554c4a7d2f01+dirty"},
		"devel": {debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, ""},
		"devel and a commit": {debug.BuildInfo{Main: debug.Module{Version: "(devel)"},
			Settings: set("vcs.revision", "abc", "vcs.modified", "false")}, "abc"},
		"changed files": {debug.BuildInfo{Settings: set("vcs.modified", "true", "vcs.revision", "abc")}, "abc+dirty"},
		"nothing":       {debug.BuildInfo{}, ""},
	} {
		if got := ofBuild(&c.info); got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}

func TestOfArchive(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{archived: Unknown, "": Unknown, "\n": Unknown, " 554c4a7d2f01\n": "554c4a7d2f01",
		"v1.2.3-4-g554c4a7d2f01 554c4a7d2f01\n": "v1.2.3-4-g554c4a7d2f01"} {
		if got := ofArchive(text); got != want {
			t.Errorf("%q: %q, not %q", text, got, want)
		}
	}
}

// TestBuilds builds the program as people do: it always has a version, and it is never "(devel)".
func TestBuilds(t *testing.T) {
	t.Parallel()
	const linked = "-X github.com/sealbatch/sealbatch/internal/version.linked=v7.8.9"
	described := regexp.MustCompile(`^(v\d\S*|[0-9a-f]{12}(\+dirty)?)$`)
	for name, c := range map[string]struct {
		build func(dir string) []string
		want  *regexp.Regexp
	}{
		"without a repository": {func(dir string) []string {
			return []string{"go", "build", "-buildvcs=false", "-o", dir, "../../cmd/sealbatch"}
		}, regexp.MustCompile("^" + Unknown + "$")},
		"with a name": {func(dir string) []string {
			return []string{"go", "build", "-buildvcs=false", "-ldflags", linked, "-o", dir, "../../cmd/sealbatch"}
		}, regexp.MustCompile(`^v7\.8\.9$`)},
		"by make": {func(dir string) []string { return []string{"make", "-s", "-C", "../..", "build", "BIN=" + dir} }, described},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			argv := c.build(dir)
			if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "sealbatch"), "version").Output()
			f := strings.Fields(string(out))
			if err != nil || len(f) < 2 || !c.want.MatchString(f[1]) {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
}
