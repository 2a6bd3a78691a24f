// Package version says which build of sealbatch this is.
package version

import (
	_ "embed"
	"runtime/debug"
	"strings"
)

// Unknown is the version of a program that was built of sources without a repository and without a name.
const Unknown = "unknown"

// linked is set by make (go build -ldflags "-X ...linked=..."), which asks git.
var linked string

// archived is what `git archive` makes of the file: the tag that the archived commit has or follows, if
// there is one, and the commit.
//
//go:embed archived.txt
var archived string

// String returns the version: a tag such as "v1.2.3", that and the commit after it ("v1.2.3-4-g554c4a7d2f01"), or the
// commit, as git describes them, with "+dirty" if files had been changed; what the go command found out where make was
// not used; else Unknown.
func String() string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := ofBuild(info); v != "" {
			return v
		}
	}
	return ofArchive(archived)
}

// ofBuild returns what the go command found out, or "".
func ofBuild(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	if commit == "" {
		return ""
	}
	return commit + dirty
}

func ofArchive(text string) string {
	f := strings.Fields(text)
	if len(f) == 0 || strings.HasPrefix(f[0], "$Format") {
		return Unknown
	}
	return f[0]
}
