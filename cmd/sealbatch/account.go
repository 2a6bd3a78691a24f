package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// runServeAccount is serve account: it asks the service that runs on the
// configuration's data-dir.
func runServeAccount(ctx context.Context, a *app, args []string) error {
	const what = `Show or end what an account has at the running key service: as root, or as the service's user.
Ending it is for good: jobs and tokens must be made anew, and policies set anew. To keep an account out,
remove its lines from accounts.`
	f := ui.NewFlags("sealbatch serve account", what, "list [NAME] | withdraw NAME", `
sealbatch serve account list --config /etc/sealbatch/server.conf
sealbatch serve account list etellier --config /etc/sealbatch/server.conf
sealbatch serve account withdraw etellier --policies --config /etc/sealbatch/server.conf`)
	var conf string
	var policies, yes bool
	f.String(&conf, "the service's configuration file", []string{"config"})
	f.Bool(&policies, "with withdraw: nor is any of its volumes released until its owner has set the policy anew",
		[]string{"policies"})
	f.Bool(&yes, "with withdraw: do not ask", []string{"y", "yes"}, ui.Whole)
	if err := a.parse(f, args); err != nil {
		return err
	}
	words := f.Args()
	list := len(words) > 0 && len(words) <= 2 && words[0] == "list"
	if withdraw := len(words) == 2 && words[0] == "withdraw"; !list && !withdraw || conf == "" {
		return usageError("sealbatch serve account: the words are: list, list NAME, withdraw NAME; --config is needed",
			"sealbatch serve account --help shows an example")
	}
	if list && (policies || yes) {
		return usageError("sealbatch serve account: --policies and --yes go with withdraw", "sealbatch serve account --help shows an example")
	}
	c, err := loadServer(conf)
	if err != nil {
		return err
	}
	local := localService{service.LocalClient(c.DataDir)}
	if len(words) == 1 {
		var all keyserver.AccountList
		if err := local.call(ctx, http.MethodGet, "/accounts", &all); err != nil {
			return err
		}
		return listAccounts(a, all.Accounts)
	}
	path := "/accounts/" + url.PathEscape(words[1])
	var info keyserver.AccountInfo
	if err := local.call(ctx, http.MethodGet, path, &info); err != nil {
		return err
	}
	if words[0] == "withdraw" {
		if err := a.confirmFinal(ctx, yes, withdrawal(info, policies)); err != nil {
			return err
		}
		path += "/withdraw"
		if policies {
			path += "?policies=yes"
		}
		if err := local.call(ctx, http.MethodPost, path, &info); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "withdrawn: what %s had until now\n", text.Printable(info.Name))
	}
	return showAccount(a, info)
}

// withdrawal says what it would end.
func withdrawal(info keyserver.AccountInfo, policies bool) string {
	what := fmt.Sprintf("No key is released any more to the %d jobs and %d tokens that account %s has now", len(info.Jobs), len(info.Tokens),
		text.Printable(info.Name))
	if policies {
		what += fmt.Sprintf(",\nnor of its %d volumes, until their owner has set each policy anew", len(info.Volumes))
	}
	return what + ".\n"
}

// localService is the service that runs on a directory of this machine.
type localService struct{ http *http.Client }

// maxLocalAnswer bounds an answer, in bytes: an account's volumes and jobs.
const maxLocalAnswer = 256 << 20

func (l localService) call(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://local"+path, nil)
	if err != nil {
		return err
	}
	res, err := l.http.Do(req)
	if errors.Is(err, service.ErrNotRunning) {
		return fault.New(fault.Config, err, "a service that does not run releases nothing; "+
			"remove the account's lines from accounts before you start it")
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := fsx.ReadAll(res.Body, maxLocalAnswer)
	if err != nil {
		return err
	}
	if res.StatusCode == http.StatusOK {
		return manifest.DecodeJSON(b, out)
	}
	var refused keyapi.Error
	if err := manifest.DecodeJSON(b, &refused); err != nil {
		return fmt.Errorf("status %d: %w", res.StatusCode, err)
	}
	return fault.New(fault.Other, errors.New(refused.Message), refused.Hint)
}

func listAccounts(a *app, all []keyserver.AccountInfo) error {
	table := ui.NewTable(ui.Column{Head: "ACCOUNT", Wrap: true}, ui.Column{Head: "ID"}, ui.Column{Head: "KEYS", Wrap: true})
	for _, info := range all {
		keys := fmt.Sprint(len(info.Keys))
		if len(info.Keys) == 0 {
			keys = "none: not enrolled"
		}
		table.Row(info.Name, info.ID, keys)
	}
	return table.Print(a.stdout)
}

// showAccount prints one line for each thing, which begins with what it is.
func showAccount(a *app, info keyserver.AccountInfo) error {
	table := ui.NewTable(ui.Column{})
	row := table.Row
	state := func(withheld string) string {
		if withheld != "" {
			return "counts no more: " + withheld
		}
		return "counts"
	}
	date := func(t time.Time) string { return t.Local().Format(time.DateTime) }
	row("account", info.Name, info.ID)
	for _, k := range info.Keys {
		until := "enrolled"
		if !k.ValidBefore.IsZero() {
			until = "enrolled until " + date(k.ValidBefore)
		}
		row("key", k.Fingerprint, until)
	}
	for _, v := range info.Volumes {
		row("volume", v.ID, v.Name, v.File, "policy set with "+v.Key, state(v.Withheld))
	}
	for _, j := range info.Jobs {
		row("job", j.Manifest, "user "+j.User, "registered "+date(j.Registered), "with "+j.Key, "until "+date(j.Expires),
			j.Job, state(j.Withheld))
	}
	for _, t := range info.Tokens {
		row("token", t.ID, "for "+t.Manifest, "asked for with "+t.Key, "until "+date(t.Expires), state(t.Withheld))
	}
	return table.Print(a.stdout)
}
