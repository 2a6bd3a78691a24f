package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// Others may exchange the directory at rest at any moment, for another one of the owner's in which
// files have the same names, too. So nothing is replaced by path: a file gets a name that nothing has,
// and only a shell at the site gives it that of an earlier version. It enters the directory first, and
// looks then whether the info file in it says that it was published there. A directory that nobody else
// can write has such an info file only if that is so.

// shell runs commands at the site; see transfer.Client.Run.
type shell interface {
	Run(ctx context.Context, argv []string, stdin io.Reader) (stdout, stderr []byte, exit int, err error)
}

// errOther: what has the name is no earlier version.
var errOther = errors.New("something else has the name than an earlier version that was published there")

// name gives a staged file its final name; remote is that of the volume's sealed file, or of its
// info file.
func (a *announcement) name(ctx context.Context, fsys transfer.FS, staged, final, remote string) error {
	err := fsys.Rename(staged, final)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	sh, ok := fsys.(shell)
	if !ok {
		return err
	}
	info := strings.TrimSuffix(remote, InfoSuffix) + InfoSuffix
	out, _, _, err := sh.Run(ctx, []string{"sh", "-c", a.replace(staged, final, info)}, nil)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(strings.TrimSpace(string(out)), replaced) {
		if final != remote || final == info {
			_ = fsys.Remove(staged) // small, and made again; a sealed file stays to go on with
		}
		return fault.New(fault.Other, fmt.Errorf("%s: %w", final, errOther),
			"look at what is there; if it is not needed, remove it and run the same command again")
	}
	return nil
}

// replaced is the last line of a replacement that is done.
const replaced = "sealbatch: replaced"

// replace returns the shell's command. A signature without an info file is of no use.
func (a *announcement) replace(staged, final, info string) string {
	here := func(name string) string { return shellwords.QuoteArgs("./" + path.Base(name)) }
	look := "grep -qxF -e " + shellwords.QuoteArgs(a.where()) + " " + here(info)
	if final == info+SigSuffix {
		look = "{ [ ! -e " + here(info) + " ] || " + look + "; }"
	}
	return shellwords.CleanSearch + "cd -- " + shellwords.QuoteArgs(path.Dir(final)) + " && " + look +
		a.keep(final, info) + " && mv -fT -- " + here(staged) + " " + here(final) + " && echo " + shellwords.QuoteArgs(replaced)
}

// keep returns what gives the sealed file before another name, too, if it is kept.
func (a *announcement) keep(final, info string) string {
	if a.kept == "" || final+InfoSuffix != info {
		return ""
	}
	was, kept := shellwords.QuoteArgs("./"+path.Base(final)), shellwords.QuoteArgs("./"+path.Base(a.kept))
	return " && { ln -T -- " + was + " " + kept + " || [ " + was + " -ef " + kept + " ]; }"
}

// where returns the info file's line that says where the volume lies.
func (a *announcement) where() string {
	for line := range bytes.Lines(a.info) {
		if bytes.HasPrefix(bytes.TrimSpace(line), []byte("path_at_rest: ")) {
			return string(bytes.TrimRight(line, "\n"))
		}
	}
	return "path_at_rest: nowhere"
}
