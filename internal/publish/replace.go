package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
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
		return fmt.Errorf("%s cannot be replaced on the site: %.300s", transfer.At(final), text.Printable(strings.TrimSpace(string(errOut))))
	}
	if !strings.HasSuffix(strings.TrimSpace(string(out)), replaced) {
		if final != remote || final == info {
			_ = fsys.Remove(staged) // small, and made again; a sealed file stays to go on with
		}
		return other(final)
	}
	return nil
}

func other(final string) error {
	return fault.New(fault.Other, fmt.Errorf("%s: %w", transfer.At(final), errOther),
		"look at what is there; if it is not needed, remove it and run the same command again")
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
		err = fault.WithHint(fmt.Errorf("%s is there already, and only a command on the site can replace it: %w", transfer.At(final), err),
			"remove it, its "+InfoSuffix+" and "+InfoSuffix+SigSuffix+" by sftp, or rename them, and run the same command again; "+
				"or publish under another name")
	}
	return err
}

// replaceable reports early, while the earlier version is still the one that counts, that it cannot be replaced, or that
// what has its names is something else.
func (p *publishing) replaceable(ctx context.Context) error {
	remote := p.r.pathAtRest()
	return p.withReconnect(ctx, nil, func(fsys transfer.FS) error {
		if p.s.Size > 0 && p.arrived(fsys, remote) {
			return nil
		}
		there, err := p.earlier(fsys, remote)
		sh, ok := fsys.(shell)
		if err != nil || !there || !ok {
			return err
		}
		_, _, _, err = sh.Run(ctx, []string{"true"}, nil)
		return cannotReplace(remote, err)
	})
}

// earlier reports whether an earlier version has the names at the site, by what name goes by when it gives them to
// another. Something else that has one is errOther.
func (p *publishing) earlier(fsys transfer.FS, remote string) (there bool, err error) {
	had := map[string]bool{}
	for _, name := range []string{remote, remote + InfoSuffix, remote + InfoSuffix + SigSuffix} {
		switch st, err := fsys.Lstat(name); {
		case err == nil && st.IsDir():
			return false, other(name)
		case err == nil:
			had[name] = true
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		}
	}
	if !had[remote] && !had[remote+InfoSuffix] {
		return false, nil
	}
	made, err := p.r.foreseen().Encode()
	if err != nil {
		return false, err
	}
	info, err := transfer.ReadFile(fsys, remote+InfoSuffix, maxInfo)
	if errors.Is(err, transfer.ErrConnect) {
		return false, err
	}
	where := (&announcement{info: made}).where()
	if err != nil || !slices.Contains(strings.Split(string(info), "\n"), where) {
		if !had[remote] {
			remote += InfoSuffix
		}
		return false, other(remote)
	}
	return had[remote], nil
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
