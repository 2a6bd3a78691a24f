package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/doctor"
	"github.com/sealbatch/sealbatch/internal/evidence/builtin"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/harden"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

func runDoctor(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch doctor", `Try what jobs need, and say what is wrong and how to put it right: on your machine the
configuration, key service and site, with --node the compute node it runs on.`, "", `
sealbatch doctor
srun -p standard ./sealbatch doctor --node     # with gocryptfs beside it
srun -p standard ./sealbatch doctor --node --config client.conf     # and as [supercomputer] setup makes jobs' environment`)
	var cf clientFlags
	var node bool
	cf.add(f)
	f.Bool(&node, "look at this compute node, and clear away what dead jobs of yours left on it", []string{"node"})
	if err := a.parse(f, args); err != nil {
		return err
	}
	bad := 0
	report := func(f doctor.Finding) {
		if f.Bad {
			bad++
		}
		printFinding(a.stdout, f)
	}
	if node {
		checkNode(ctx, a, cf, report)
	}
	if err := harden.Process(); err != nil { // no key is in memory yet
		return err
	}
	if node {
		checkServiceFromNode(ctx, a, cf, report)
	} else {
		checkClient(ctx, a, cf, report)
	}
	switch {
	case bad == 1:
		return errors.New("1 thing keeps jobs from running (NO above)")
	case bad > 1:
		return fmt.Errorf("%d things keep jobs from running (NO above)", bad)
	}
	return ctx.Err()
}

// printFinding writes "ok", "--" or "NO" with what was found, and the cure on a
// line of its own.
func printFinding(w io.Writer, f doctor.Finding) {
	mark := "ok"
	switch {
	case f.Bad:
		mark = "NO"
	case f.Warn:
		mark = "--"
	}
	w = ui.Hanging(w, 4)
	fmt.Fprintf(w, "%s  %s: %s\n", mark, f.What, text.Printable(f.Detail))
	if f.Fix != "" {
		fmt.Fprintf(w, "    fix: %s\n", text.Printable(f.Fix))
	}
}

// checkNode looks at a compute node, with a configuration if there is one.
func checkNode(ctx context.Context, a *app, cf clientFlags, report doctor.Report) {
	programs, err := travellingPrograms()
	if err != nil {
		report(doctor.Failed("programs", err))
		return
	}
	n := doctor.Node{Gocryptfs: programs[1], Evidence: builtin.Types, Report: report, Log: a.log}
	if conf, err := config.LoadClient(cf.config); err == nil {
		n.Runtime, n.Setup = conf.Supercomputer.Runtime, conf.Supercomputer.Setup
	} else {
		report(doctor.Finding{
			What: "environment", Warn: true,
			Detail: "as it is here: no configuration that can be read says how [supercomputer] setup changes it for jobs",
			Fix:    "name one with --config, if it has such lines",
		})
	}
	n.Check(ctx)
}

// checkServiceFromNode asks the key service from a compute node, if there is a
// configuration.
func checkServiceFromNode(ctx context.Context, a *app, cf clientFlags, report doctor.Report) {
	c, err := loadClient(ctx, a, cf)
	if errors.Is(err, trusted.ErrUnsafe) {
		report(doctor.Finding{What: "key service", Warn: true, Detail: "not tried: " + err.Error(), Fix: fault.Hint(err)})
		return
	}
	if err != nil {
		report(doctor.Finding{
			What: "key service", Warn: true,
			Detail: "not tried: there is no configuration on this node (" + err.Error() + ")",
			Fix:    "name one with --config to try it; jobs bring what they need",
		})
		return
	}
	serviceCheck(c, report).CheckFromNode(ctx)
}

func serviceCheck(c *client, report doctor.Report) doctor.Service {
	return doctor.Service{URL: c.conf.Service.URL, CA: c.ca, Keys: c.keys, Evidence: builtin.Types, Report: report}
}

// checkClient looks at the user's machine, the key service and the login node.
func checkClient(ctx context.Context, a *app, cf clientFlags, report doctor.Report) {
	if conf, err := config.LoadClient(cf.config); err == nil {
		bad := clientFiles(conf)
		for _, err := range bad {
			report(doctor.Failed("files", err))
		}
		if len(bad) > 0 {
			return
		}
	}
	c, err := loadClient(ctx, a, cf)
	if err != nil {
		report(doctor.Failed("configuration", err))
		return
	}
	programs, err := travellingPrograms()
	if err != nil {
		report(doctor.Failed("programs", err))
		return
	}
	doctor.Client{
		Conf: c.conf, KeyType: c.signer.PublicKey().Type(), Gocryptfs: programs[1],
		Service: serviceCheck(c, report), Report: report,
		Recipients: func() (int, error) {
			r, _, err := c.ageRecipients(nil)
			return len(r), err
		},
		Trust: func() error {
			_, err := c.trust(ctx)
			return err
		},
		Connect: func(ctx context.Context) (doctor.Site, error) {
			err := c.connect(ctx)
			return doctor.Site{FS: c.fs, Runner: c.run, Close: c.close}, err
		},
	}.Check(ctx)
}

// clientFiles returns what others can get at, of the files that decide something on
// the user's machine. The configuration itself was read.
func clientFiles(conf *config.Client) []error {
	key := trusted.Secret
	if strings.HasSuffix(conf.Identity.SSHKey, ".pub") {
		key = trusted.Public
	}
	errs := []error{
		unsafe(trusted.Check(conf.Identity.SSHKey, key)), unsafe(trusted.Check(conf.Service.CACert, trusted.Public)),
		unsafe(trusted.Check(conf.Trust.AllowedSigners, trusted.Public)),
	}
	for _, r := range conf.Results.Recipients {
		if filepath.IsAbs(r) {
			errs = append(errs, unsafe(trusted.Check(r, trusted.Public)))
		}
	}
	for _, i := range conf.Results.Identities {
		errs = append(errs, unsafe(trusted.Check(i, trusted.Secret)))
	}
	for _, h := range conf.Supercomputer.KnownHosts {
		errs = append(errs, unsafe(trusted.Check(h, trusted.Public)))
	}
	if state, err := userdirs.StateDir(); err == nil {
		errs = append(errs, unsafe(trusted.CheckDir(state.Dir)))
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// unsafe returns err if it says that others can get at a file.
func unsafe(err error) error {
	if errors.Is(err, trusted.ErrUnsafe) {
		return err
	}
	return nil
}
