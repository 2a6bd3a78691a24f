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
	"github.com/sealbatch/sealbatch/internal/text"
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
	out, errOut, _, err := sh.Run(ctx, []string{"sh", "-c", a.replace(staged, final, info)}, nil)
	if err != nil {
		return cannotReplace(final, err)
	}
	if strings.HasSuffix(strings.TrimSpace(string(out)), notReplaced) {
		return fmt.Errorf("%s cannot be replaced on the site: %.300s", final, text.Printable(strings.TrimSpace(string(errOut))))
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

// The last line of a replacement that is done, and of one that failed.
const (
	replaced    = "sealbatch: replaced"
	notReplaced = "sealbatch: not replaced"
)

// cannotReplace says what to do where the site runs no commands. Renaming by path is no way: it could move
// something aside in another directory.
func cannotReplace(final string, err error) error {
	if errors.Is(err, transfer.ErrNoCommands) {
		err = fault.WithHint(fmt.Errorf("%s is there already, and only a command on the site can replace it: %w", final, err),
			"remove it, its "+InfoSuffix+" and "+InfoSuffix+SigSuffix+" by sftp, or rename them, and run the same command again; "+
				"or publish under another name")
	}
	return err
}

// replaceable reports early, while the earlier version is still the one that counts, that it cannot be replaced.
func (p *publishing) replaceable(ctx context.Context) error {
	remote := p.r.pathAtRest()
	return p.withReconnect(ctx, nil, func(fsys transfer.FS) error {
		sh, ok := fsys.(shell)
		if _, err := fsys.Lstat(remote); errors.Is(err, fs.ErrNotExist) || !ok {
			return nil
		} else if err != nil {
			return err
		}
		if p.s.Size > 0 && p.arrived(fsys, remote) {
			return nil
		}
		_, _, _, err := sh.Run(ctx, []string{"true"}, nil)
		return cannotReplace(remote, err)
	})
}

// replace returns the shell's command. A signature without an info file is of no use.
func (a *announcement) replace(staged, final, info string) string {
	here := func(name string) string { return shellwords.QuoteArgs("./" + path.Base(name)) }
	look := "grep -qxF -e " + shellwords.QuoteArgs(a.where()) + " " + here(info)
	if final == info+SigSuffix {
		look = "{ [ ! -e " + here(info) + " ] || " + look + "; }"
	}
	return shellwords.CleanSearch + "cd -- " + shellwords.QuoteArgs(path.Dir(final)) + " && " + look +
		a.keep(final, info) + " && { mv -fT -- " + here(staged) + " " + here(final) + " && echo " + shellwords.QuoteArgs(replaced) +
		" || echo " + shellwords.QuoteArgs(notReplaced) + "; }"
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
