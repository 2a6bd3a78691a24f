package jobdir

import (
	"context"
	"errors"
	"path"

	"github.com/sealbatch/sealbatch/internal/shellwords"
)

// LogLinkSuffix ends the name of the link beside a job's directory that leads to its log: HPCS writes JOBNAME.out there.
const LogLinkSuffix = ".out"

// ErrNotLinked: there is no link to a job's log.
var ErrNotLinked = errors.New("not linked")

// unlinkLog removes what LinkLog made for the run of a job directory, whatever it is called.
func unlinkLog(dir string) string {
	return "{ cd -P -- " + shellwords.QuoteArgs(path.Dir(dir)) + " && for link in ./*" + LogLinkSuffix + `; do if [ -L "$link" ] && ` +
		`[ "$(readlink -- "$link")" = ` + shellwords.QuoteArgs(logIn(path.Base(dir))) + ` ]; then rm -f -- "$link"; fi; done; true; }`
}

// logIn is what a link beside a job's directory, called base, leads to.
func logIn(base string) string { return base + "/" + LogName }

// LinkLog has the site make name, a symbolic link in the work directory, lead to the log of a run there. A link of one's own
// to the log of another run gives way, nothing else does.
func LinkLog(ctx context.Context, site Runner, workdir, name, run string) error {
	link := shellwords.QuoteArgs("./" + name)
	script := "cd -P -- " + shellwords.QuoteArgs(workdir) +
		" && if [ -L " + link + " ]; then case $(readlink -- " + link + ") in sealbatch-????????????????/" + LogName + ") ;; *) false ;; esac" +
		` && [ "$(stat -c %u -- ` + link + `)" = "$(id -u)" ] && rm -f -- ` + link + "; else [ ! -e " + link + " ]; fi" +
		" && ln -s -- " + shellwords.QuoteArgs(logIn(Path("", run))) + " " + link
	return do(ctx, site, byShell(script), ErrNotLinked)
}
