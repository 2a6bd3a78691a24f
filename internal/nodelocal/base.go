package nodelocal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/trusted"
)

// errName is that of a path which the container runtimes would split.
var errName = errors.New("its name has a comma, a colon or a backslash")

// Base is a directory that the job script thinks of making a node-local one in.
// It copies programs there, checks them and runs them by their path, so it passes
// over a base in which somebody else could exchange them: one that others can
// write without the sticky bit, or below such a one, or another user's. The rule is
// trusted.CheckWay's; the script has it in shell ("exchangeable" in slurm/render.go).
type Base struct {
	Name string // as the job's environment has it
	Dir  string // where that leads, without symbolic links; "" if Err is not nil
	Err  error  // why it is passed over; os.ErrNotExist if there is none
}

// Bases returns the script's bases in the order in which it takes them. getenv reads
// the job's environment.
func Bases(getenv func(string) string) []Base {
	var out []Base
	seen := map[string]bool{}
	for _, name := range []string{
		getenv("SLURM_TMPDIR"), getenv("TMPDIR"), "/tmp", "/dev/shm", "/var/tmp", "/run/user/" + strconv.Itoa(os.Geteuid()),
	} {
		if !filepath.IsAbs(name) || seen[name] {
			continue
		}
		seen[name] = true
		dir, err := baseAt(name)
		out = append(out, Base{name, dir, err})
	}
	return out
}

// baseAt returns the directory to which name leads, if others cannot exchange it.
func baseAt(name string) (string, error) {
	dir, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", err
	}
	if err := errors.Join(nameable(dir), checkBase(dir)); err != nil {
		return "", err
	}
	return dir, nil
}

// nameable returns an error for a path that the runtimes split in their lists of binds.
func nameable(path string) error {
	if strings.ContainsAny(path, ",:\\") {
		return errName
	}
	return nil
}

// checkBase holds a directory that is named without symbolic links to the rule.
func checkBase(dir string) error {
	if err := trusted.CheckWay(dir); err != nil {
		return fmt.Errorf("others could exchange what runs there: %w", err)
	}
	return nil
}

// Places returns the directories in which the job script makes its own on this
// node: that of self, if there is one, and the bases that it does not pass over.
func Places(self string, getenv func(string) string) []string {
	var out []string
	seen := map[string]bool{}
	add := func(dir string, err error) {
		if err == nil && !seen[dir] {
			seen[dir] = true
			out = append(out, dir)
		}
	}
	if self != "" {
		add(filepath.Dir(self), checkBase(filepath.Dir(self)))
	}
	for _, b := range Bases(getenv) {
		add(b.Dir, b.Err)
	}
	return out
}
