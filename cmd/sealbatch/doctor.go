package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/fusefs"
	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/doctor"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/harden"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// checkup collects findings.
type checkup struct {
	a   *app
	bad int
}

func (d *checkup) report(f ui.Finding) {
	if f.Bad {
		d.bad++
	}
	ui.PrintFinding(d.a.stdout, f)
}

func (d *checkup) ok(what, format string, args ...any) {
	d.report(ui.Finding{What: what, Detail: fmt.Sprintf(format, args...)})
}

func (d *checkup) no(what string, err error) {
	d.report(ui.Finding{What: what, Bad: true, Detail: err.Error(), Fix: fault.Hint(err)})
}

func runDoctor(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch doctor", `Try what jobs need, and say what is wrong and how to put it right: on your machine the
configuration, key service and supercomputer, with --node the compute node it runs on.`, "", `
sealbatch doctor
srun -p standard ./sealbatch doctor --node     # with gocryptfs beside it`)
	var cf clientFlags
	var node bool
	cf.add(f)
	f.Bool(&node, "look at this compute node, and clear away what dead jobs of yours left on it", []string{"node"})
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	d := &checkup{a: a}
	if node {
		d.mounts(ctx, cf)
	}
	if err := harden.Process(); err != nil { // no key is in memory yet
		return err
	}
	if node {
		d.reach(ctx, cf)
	} else {
		d.client(ctx, cf)
	}
	switch {
	case d.bad == 1:
		return errors.New("1 thing keeps jobs from running (NO above)")
	case d.bad > 1:
		return fmt.Errorf("%d things keep jobs from running (NO above)", d.bad)
	}
	return ctx.Err()
}

// mounts looks at a compute node. It needs no configuration there, and reads no key.
func (d *checkup) mounts(ctx context.Context, cf clientFlags) {
	programs, err := travellingPrograms()
	if err != nil {
		d.no("programs", err)
		return
	}
	check := doctor.NodeCheck{Gocryptfs: programs[1], Getenv: os.Getenv, Report: d.report, Log: d.a.log}
	if conf, err := config.LoadClient(cf.config); err == nil {
		check.Runtime = conf.Supercomputer.Runtime
	}
	if _, err := os.Stat(programs[1]); err != nil {
		d.no("gocryptfs", fault.New(fault.Other, err, "put it beside sealbatch, as make build does"))
		return
	}
	doctor.CheckNode(ctx, check)
}

// reach asks the key service from a compute node, if there is a configuration.
func (d *checkup) reach(ctx context.Context, cf clientFlags) {
	c, err := loadClient(ctx, d.a, cf)
	if err != nil {
		d.report(ui.Finding{What: "key service", Warn: true, Detail: "not tried: there is no configuration on this node (" + err.Error() + ")",
			Fix: "name one with --config to try it; jobs bring what they need"})
		return
	}
	if s, err := c.keys.Service(ctx); err == nil {
		d.ok("key service", "%s answers from here", c.conf.Service.URL)
		d.clock(s.Time)
		d.verifiers(ctx, s, false)
		return
	} else if !errors.Is(err, keyclient.ErrUnavailable) {
		d.no("key service", err)
		return
	}
	d.report(ui.Finding{What: "key service", Warn: true, Detail: c.conf.Service.URL + " cannot be reached from here: jobs ask through the cluster's verifier",
		Fix: "fine where the cluster has a verifier (sealbatch doctor on your machine lists it)"})
}

// client looks at the user's machine, the key service and the login node.
func (d *checkup) client(ctx context.Context, cf clientFlags) {
	c, err := loadClient(ctx, d.a, cf)
	if err != nil {
		d.no("configuration", err)
		return
	}
	d.ok("configuration", "%s", c.conf.Path)
	if _, err := fusefs.ParseWay(c.conf.Supercomputer.Mounts); err != nil {
		d.no("[supercomputer] mounts", err)
	}
	d.ok("account key", "%s, a %s key", c.conf.Identity.SSHKey, c.signer.PublicKey().Type())
	if r, _, err := c.ageRecipients(nil); err != nil {
		d.no("recipients of results", err)
	} else {
		d.ok("recipients of results", "%d", len(r))
	}
	if _, err := c.trust(); err != nil {
		d.no("[trust] allowed-signers", err)
	}
	if programs, err := travellingPrograms(); err != nil {
		d.no("programs", err)
	} else if _, err := os.Stat(programs[1]); err != nil {
		d.no("gocryptfs", fault.New(fault.Other, err, "put it beside sealbatch, as make build does: it travels with every job"))
	}
	d.service(ctx, c)
	d.site(ctx, c)
}

// service asks the key service who it is, and for what is one's own.
func (d *checkup) service(ctx context.Context, c *client) {
	s, err := c.keys.Service(ctx)
	if err != nil {
		d.no("key service", err)
		return
	}
	d.ok("key service", "%s is %s", c.conf.Service.URL, s.ID)
	d.certificate(ctx, "key service's certificate", c.conf.Service.URL, c.ca)
	d.clock(s.Time)
	if list, err := c.keys.ListSecrets(ctx); err != nil {
		d.no("account", err)
	} else {
		d.ok("account", "the key service knows this key; %d volumes are yours", len(list))
	}
	d.verifiers(ctx, s, true)
}

// verifiers are the clusters that the service believes. Only their nodes, and
// the service, need to reach them.
func (d *checkup) verifiers(ctx context.Context, s keyapi.Service, far bool) {
	for _, v := range s.Clusters {
		what := "verifier of cluster " + v.Name
		if far {
			d.ok(what, "%s, good for tier %s", v.VerifierURL, v.Tier)
			continue
		}
		d.certificate(ctx, what, v.VerifierURL, []byte(v.VerifierCA))
	}
	if len(s.Clusters) == 0 {
		d.report(ui.Finding{What: "verifier", Warn: true, Detail: "the key service knows no cluster: jobs can attest by token only (--tier C)",
			Fix: "have the site run sealbatch verifier, and its operator enrol it"})
	}
}

// clockLimit is by how much clocks may differ before it is worth a word.
// Requests are refused from two minutes on.
const clockLimit = 20 * time.Second

func (d *checkup) clock(service time.Time) {
	off := time.Since(service).Round(time.Second)
	if off.Abs() > clockLimit {
		d.report(ui.Finding{What: "clock", Bad: true, Detail: fmt.Sprintf("this machine's is off by %v, compared with the key service's", off), Fix: "set it (NTP)"})
		return
	}
	d.ok("clock", "agrees with the key service's")
}

// soon is when a certificate's end is worth a word.
const soon = 14 * 24 * time.Hour

// certificate shakes hands with a service and looks at how long its certificate
// is good.
func (d *checkup) certificate(ctx context.Context, what, address string, ca []byte) {
	u, err := url.Parse(address)
	if err != nil {
		d.no(what, err)
		return
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	port := u.Port()
	if port == "" {
		port = "443"
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}).
		DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		d.no(what, fault.New(fault.Other, err, "does it run, and may this machine connect to it?"))
		return
	}
	defer conn.Close()
	t, ok := conn.(*tls.Conn)
	if !ok {
		return // a tls.Dialer makes no others
	}
	ends := t.ConnectionState().PeerCertificates[0].NotAfter
	f := ui.Finding{What: what, Detail: "answers; its certificate is good until " + ends.UTC().Format(time.DateOnly)}
	if time.Until(ends) < soon {
		f.Warn, f.Fix = true, "its operator should renew it"
	}
	d.report(f)
}

// site looks at the login node.
func (d *checkup) site(ctx context.Context, c *client) {
	if err := c.connect(ctx); err != nil {
		d.no("supercomputer", err)
		return
	}
	defer c.close()
	where := c.conf.Supercomputer.Address
	if where == "" {
		where = "this machine"
	}
	d.ok("supercomputer", "%s: logged in, SFTP answers", where)
	d.sbatch(ctx, c)
	if c.conf.Job.Workdir != "" {
		d.workdir(c, c.conf.Job.Workdir)
	} else {
		d.report(ui.Finding{What: "workdir", Detail: "not tried: [job] workdir names none, so job-prep needs --workdir"})
	}
}

func (d *checkup) sbatch(ctx context.Context, c *client) {
	program := "sbatch"
	if c.conf.Supercomputer.SlurmBin != "" {
		program = filepath.Join(c.conf.Supercomputer.SlurmBin, program)
	}
	out, errOut, exit, err := c.run.Run(ctx, []string{program, "--version"}, nil)
	if err == nil && exit != 0 {
		err = fmt.Errorf("%s --version ended with status %d: %.200s", program, exit, strings.TrimSpace(string(errOut)))
	}
	if err != nil {
		d.no("Slurm", fault.New(fault.Slurm, err, "name the directory of Slurm's commands as [supercomputer] slurm-bin"))
		return
	}
	d.ok("Slurm", "%.60s", strings.TrimSpace(string(out)))
}

// workdir looks at who can change it, and makes and removes a directory there.
func (d *checkup) workdir(c *client, dir string) {
	notes, err := transfer.CheckAncestors(c.fs, dir)
	if err == nil {
		probe := filepath.Join(dir, fmt.Sprintf(".sealbatch-doctor-%d", os.Getpid()))
		err = c.fs.Mkdir(probe, 0o700)
		if err == nil {
			err = c.fs.Remove(probe)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fault.New(fault.Other, err, "make it on the supercomputer, or name another one as [job] workdir")
	case errors.Is(err, fs.ErrPermission):
		err = fault.New(fault.Other, err, "name a directory that you can write to as [job] workdir")
	}
	if err != nil {
		d.no("workdir", err)
		return
	}
	d.ok("workdir", "%s can be written to", dir)
	for _, n := range notes {
		d.ok("workdir", "%s", n)
	}
}
