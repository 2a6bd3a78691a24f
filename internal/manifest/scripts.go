package manifest

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// CheckDriver is the name of HPCS's own program that runs verification scripts.
const CheckDriver = "run.sh"

// Names of scripts in HPCS's own words, regular expressions for grep: any character stands for the dot.
var (
	checkShape  = regexp.MustCompile(`.sh`)
	driverShape = regexp.MustCompile(`run.sh`)
)

// Check reports whether a file of a directory of verification scripts is one of them, and not just something that they
// read: HPCS runs what is executable and matches .sh, but run.sh.
func (f FileRef) Check() bool {
	name := "/" + f.Name
	return f.Exec && checkShape.MatchString(name) && !driverShape.MatchString(name)
}

// maxScriptName bounds the path of a file of a directory of verification scripts, in bytes.
const maxScriptName = 512

// validScripts accepts files with relative paths, each of which has a place of its own.
func validScripts(files []FileRef) error {
	if len(files) > 1024 {
		return fmt.Errorf("%w: %d files in one list", ErrInvalid, len(files))
	}
	seen := map[string]bool{}
	for _, f := range files {
		if !fs.ValidPath(f.Name) || len(f.Name) > maxScriptName {
			return fmt.Errorf("%w: %.80q is not the path of a file below a directory", ErrInvalid, f.Name)
		}
		for _, part := range strings.Split(f.Name, "/") {
			if err := validName(part); err != nil {
				return err
			}
		}
		if f.Digest.IsZero() || f.Size < 0 || seen[f.Name] {
			return fmt.Errorf("%w: file %q lacks a digest or is named twice", ErrInvalid, f.Name)
		}
		seen[f.Name] = true
	}
	for _, dir := range Parents(files) {
		if seen[dir] {
			return fmt.Errorf("%w: %q is a file and a directory", ErrInvalid, dir)
		}
	}
	return nil
}

// Parents returns the directories in which files lie, each after the one that it is in.
func Parents(files []FileRef) (dirs []string) {
	seen := map[string]bool{".": true}
	var add func(dir string)
	add = func(dir string) {
		if !seen[dir] {
			seen[dir] = true
			add(path.Dir(dir))
			dirs = append(dirs, dir)
		}
	}
	for _, f := range files {
		add(path.Dir(f.Name))
	}
	return dirs
}
