package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// Client is the user's machine and what it talks to.
type Client struct {
	Conf       *config.Client
	KeyType    string              // of the account key
	Recipients func() (int, error) // counts who can open the results
	Trust      func() error        // reads the signers that are believed
	Gocryptfs  string              // the program that travels with every job
	Service    Service
	Connect    func(context.Context) (Site, error)
	Report     Report
}

// Site is the site, connected.
type Site struct {
	FS     transfer.FS
	Runner slurm.Runner
	Close  func() error
}

// Check looks at the user's machine, the key service and the login node.
func (c Client) Check(ctx context.Context) {
	c.Report.ok("configuration", "%s", c.Conf.Path)
	if _, err := sandbox.ParseMode(c.Conf.Supercomputer.Mounts); err != nil {
		c.Report.failed("[supercomputer] mounts", err)
	}
	c.Report.ok("account key", "%s, a %s key", cmp.Or(c.Conf.Identity.SSHKey, "in the SSH agent"), c.KeyType)
	if n, err := c.Recipients(); err != nil {
		c.Report.failed("recipients of results", err)
	} else {
		c.Report.ok("recipients of results", "%d", n)
	}
	if err := c.Trust(); err != nil {
		c.Report.failed("[trust] allowed-signers", err)
	}
	if err := checkGocryptfs(c.Gocryptfs, ": it travels with every job"); err != nil {
		c.Report.failed("gocryptfs", err)
	}
	c.Service.check(ctx)
	c.checkSite(ctx)
}

// checkSite looks at the login node.
func (c Client) checkSite(ctx context.Context) {
	site, err := c.Connect(ctx)
	if err != nil {
		c.Report.failed("site", err)
		return
	}
	defer site.Close()
	if c.Conf.Supercomputer.Local {
		c.Report.ok("site", "this machine itself, without SSH")
	} else {
		c.Report.ok("site", "%s: logged in, SFTP answers", c.Conf.Supercomputer.Address)
	}
	c.checkSbatch(ctx, site.Runner)
	if dir := c.Conf.Job.Workdir; dir != "" {
		c.checkWorkdir(site.FS, dir)
	} else {
		c.Report.ok("workdir", "not tried: [job] workdir names none, so job-prep needs --workdir")
	}
}

func (c Client) checkSbatch(ctx context.Context, run slurm.Runner) {
	program := "sbatch"
	if c.Conf.Supercomputer.SlurmBin != "" {
		program = filepath.Join(c.Conf.Supercomputer.SlurmBin, program)
	}
	out, errOut, exit, err := run.Run(ctx, []string{program, "--version"}, nil)
	if err == nil && exit != 0 {
		err = fmt.Errorf("%s --version ended with status %d: %.200s", program, exit, strings.TrimSpace(string(errOut)))
	}
	if err != nil {
		hint := fault.Hint(err) // the login node may run no commands at all
		if hint == "" {
			hint = "name the directory of Slurm's commands as [supercomputer] slurm-bin"
		}
		c.Report.failed("Slurm", fault.New(fault.Slurm, err, hint))
		return
	}
	c.Report.ok("Slurm", "%.60s", strings.TrimSpace(string(out)))
	if err := slurm.CheckBash(ctx, run); err != nil {
		c.Report.failed("bash", err)
	}
}

// checkWorkdir looks at who can change it, and makes and removes a directory there.
func (c Client) checkWorkdir(site transfer.FS, dir string) {
	notes, err := transfer.CheckAncestors(site, dir)
	if err == nil {
		probe := filepath.Join(dir, fmt.Sprintf(".sealbatch-doctor-%d", os.Getpid()))
		err = site.Mkdir(probe, 0o700)
		if err == nil {
			err = site.Remove(probe)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fault.New(fault.Other, err, "make it at the site, or name another one as [job] workdir")
	case errors.Is(err, fs.ErrPermission):
		err = fault.New(fault.Other, err, "name a directory that you can write to as [job] workdir")
	}
	if err != nil {
		c.Report.failed("workdir", err)
		return
	}
	c.Report.ok("workdir", "%s can be written to", transfer.At(dir))
	for _, n := range notes {
		c.Report.ok("workdir", "%s", n)
	}
}
