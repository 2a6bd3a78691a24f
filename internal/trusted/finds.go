package trusted

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// ErrUnsafe says that somebody else can change a file, or read a secret one.
var ErrUnsafe = errors.New("others can get at it")

// find is something that is wrong with a place on the way.
type find struct {
	path, what string
	cure       string // the command that mends it, without the path
}

// Error is ErrUnsafe with all that is wrong on the way to a file.
type Error struct {
	Path  string
	finds []find
}

// Error names each place with its mode and what is wrong.
func (e *Error) Error() string {
	var what []string
	for _, f := range e.finds {
		what = append(what, f.path+" "+f.what)
	}
	return fmt.Sprintf("%s is not to be trusted: %s", e.Path, strings.Join(what, "; "))
}

// Is makes it ErrUnsafe.
func (e *Error) Is(target error) bool { return target == ErrUnsafe }

// cures returns the commands that mend everything, one for each kind of change.
func cures(finds []find) string {
	var kinds []string
	paths := map[string][]string{}
	for _, f := range finds {
		if paths[f.cure] == nil {
			kinds = append(kinds, f.cure)
		}
		if !slices.Contains(paths[f.cure], f.path) {
			paths[f.cure] = append(paths[f.cure], f.path)
		}
	}
	for i, cure := range kinds {
		kinds[i] = cure + " " + shellwords.QuoteArgs(paths[cure]...)
	}
	return strings.Join(kinds, " && ")
}

// verdict returns what was found on the way to path.
func (w *walk) verdict(path string) error {
	if len(w.finds) > 0 {
		hint := cures(w.finds)
		switch in := userdirs.FromOutside(w.finds[0].path); {
		case in && w.stranger != "":
			hint = fmt.Sprintf("run the container as their owner (`user: \"%d\"` in the compose file), or, outside of it: %s",
				w.strangerID, hint)
		case in:
			hint = "outside of the container, on what is mounted there: " + hint
		case w.uid == 0 && w.stranger != "":
			hint = "run it as " + w.stranger + ", or: " + hint
		}
		return fault.New(fault.Config, &Error{path, w.finds}, hint)
	}
	return nil
}

// pass looks at a directory on the way. The sticky bit keeps others from
// renaming and removing what is not theirs, and all that follows is held to its
// owner. Who owns "/" is not asked: this program, too, comes from there, and in
// a container it often shows as nobody's.
func (w *walk) pass(d *os.File, fi fs.FileInfo) {
	if d.Name() != "/" {
		w.own(d.Name(), fi)
	}
	if fi.Mode()&fs.ModeSticky == 0 {
		w.writable(d, fi)
	}
}

// look looks at what is opened in the end.
func (w *walk) look(f *os.File, fi fs.FileInfo) {
	w.own(f.Name(), fi)
	if perm := w.perm(f, fi); w.kind == Secret && perm&0o077 != 0 {
		what := fmt.Sprintf("(mode %04o) can be read or changed by %s", fi.Mode().Perm(), whom(perm, 7))
		w.add(f.Name(), what, "chmod go-rwx")
		return
	}
	w.writable(f, fi)
}

func (w *walk) writable(f *os.File, fi fs.FileInfo) {
	if perm := w.perm(f, fi); perm&0o022 != 0 {
		w.add(f.Name(), fmt.Sprintf("(mode %04o) can be changed by %s", fi.Mode().Perm(), whom(perm, 2)), "chmod go-w")
	}
}

// own finds what belongs to neither root nor this process's user.
func (w *walk) own(path string, fi fs.FileInfo) {
	st, _ := fi.Sys().(*syscall.Stat_t) // always, on Linux
	if st.Uid != 0 && st.Uid != w.uid && st.Uid != w.owner {
		w.stranger, w.strangerID = userName(st.Uid), st.Uid
		w.add(path, fmt.Sprintf("(mode %04o) belongs to %s", fi.Mode().Perm(), w.stranger), "chown -h "+userName(w.uid))
	}
}

func (w *walk) add(path, what string, cure string) {
	if f := (find{path, what, cure}); !slices.Contains(w.finds, f) {
		w.finds = append(w.finds, f)
	}
}

// whom says who has one of bits (of others) in a mode.
func whom(perm fs.FileMode, bits fs.FileMode) string {
	if perm&bits != 0 {
		return "everybody"
	}
	return "its group"
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// cause returns what a path error is about.
func cause(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}
