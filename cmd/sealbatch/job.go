package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/evidence/builtin"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/noderun"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/jobprep"
	"github.com/sealbatch/sealbatch/slurm"
)

// jobFlags are job-prep's flags before they are checked.
type jobFlags struct {
	clientFlags
	args, flags, tier, valid string
	sealTime                 string
	raw                      []string
	goOn                     string
	follow, dryRun, noSubmit bool
	script                   string // file on this machine for the script, with noSubmit
	o                        jobprep.Options
}

func (j *jobFlags) define(f *ui.Flags) {
	s := &j.o.Script
	s.Nodes, j.tier, j.valid = 1, "B2", "14d"
	j.clientFlags.add(f)
	f.Word(&s.JobName, "name of the job (default: sealbatch)", []string{"J", "job-name"})
	f.Var((*nodesValue)(s), "number of nodes (2), or the least and the most that Slurm may give (1-4); each runs the application once",
		[]string{"N", "nodes"})
	f.Word(&s.Partition, "partition", []string{"p", "partition"})
	f.Word(&s.Time, "time limit, as sbatch takes it: minutes (90), MM:SS, HH:MM:SS, DAYS-HH, DAYS-HH:MM or DAYS-HH:MM:SS",
		[]string{"t", "time"})
	f.Word(&s.Account, "account to bill", []string{"A", "account"})
	f.Word(&s.NodeList, "nodes to run on, a host list", []string{"w", "nodelist"})
	f.String(&j.o.Workdir, "directory at the site below which the job's own is made", []string{"s", "workdir"})
	f.String(&j.o.ApplicationInfo, "info file of the image, at the site", []string{"ai", "application-info"},
		ui.RequiredUnless("continue"))
	f.Strings(&j.o.DataInfo, "info file of a dataset, at the site; each is at /sd-container/encrypted/NAME",
		[]string{"di", "data-info"}, ui.RequiredUnless("continue"))
	f.Strings(&j.o.HPCSKeys, "file of the key of an input that HPCS prepared (-di or -ai names HPCS's info file): AGE-SECRET-KEY-1...,\n"+
		"readable by you alone. Each node decrypts that file for the job", []string{"hpcs-key"})
	f.Word(&j.o.InputScripts, "directory of scripts that check the input before the application runs",
		[]string{"i", "supplementary-input-scripts"})
	f.Word(&j.o.OutputScripts, "directory of scripts that check the output after it", []string{"o", "supplementary-output-scripts"})
	f.String(&j.flags, "flags for the container runtime, in one word: \"--env A=B --env C=D --nv\"",
		[]string{"flags", "singularity-supplementary-flags"}, ui.Verbatim)
	f.Word(&j.o.Network, "none: containers get no network, as they do in any case where an owner demands it", []string{"network"})
	f.String(&j.args, "arguments for the application, in one word", []string{"args", "arguments"}, ui.Verbatim)
	f.Bool(&j.follow, "follow the job: its states, its log, and its exit code", []string{"f", "follow"})
	f.Word(&s.Mem, "memory a node: in megabytes (4096), or with K, M, G or T (4G)", []string{"mem"})
	f.Int(&s.CPUsPerTask, 1, "CPUs a node", []string{"cpus-per-task"})
	f.Word(&s.Gres, "generic resources a node", []string{"gres"})
	f.Word(&s.GPUs, "GPUs", []string{"gpus"})
	f.Word(&s.Constraint, "features that nodes must have", []string{"constraint"})
	f.Word(&s.QOS, "quality of service", []string{"qos"})
	f.Word(&s.Reservation, "reservation", []string{"reservation"})
	f.Bool(&s.Exclusive, "share the nodes with nobody: then nobody else sees the application's arguments", []string{"exclusive"})
	f.Word(&s.Dependency, "jobs to wait for, such as afterok:123", []string{"dependency"})
	f.Word(&s.MailType, "when Slurm sends mail, such as END,FAIL", []string{"mail-type"})
	f.Word(&s.MailUser, "to whom", []string{"mail-user"})
	f.Strings(&j.raw, "any other sbatch option, as KEY or KEY=VALUE", []string{"sbatch"})
	f.Word(&j.sealTime, "time kept before the limit for sealing the results: seconds (300), or with a unit (300s, 5m)\n"+
		"(default: a quarter of the limit, 300 at most)", []string{"seal-time"})
	f.Word(&j.tier, "weakest evidence for which this job may run: A, B1, B2, or C for a token", []string{"tier"})
	f.Word(&j.o.Attest, "how nodes prove who they are: "+builtin.Names()+" (default: token at tier C, else slurm)", []string{"attest"})
	f.Word(&j.valid, "how long the job may wait in the queue: days (14d), hours (12h), minutes (90m) or seconds (90s), 30 days at most",
		[]string{"valid"})
	f.Bool(&j.dryRun, "print the script and every remote action, and contact nobody", []string{"dry-run"})
	f.String(&j.goOn, "take up a broken-off job, by run or directory: look for it in Slurm, submit it if it is not there",
		[]string{"continue"})
	f.Bool(&j.o.Force, "submit even what will not run as things are, and leave it waiting", []string{"force"},
		ui.Whole)
	f.Bool(&j.noSubmit, "prepare everything, and leave a script to submit by hand", []string{"no-submit"})
	f.String(&j.script, "with --no-submit: write the script to this file on this machine, too, with mode 0600", []string{"output"})
	f.Alone("continue", "a job stays as it was prepared: to have another, run job-prep without --continue",
		"follow", "force", "config", "username")
	f.Prefer("config", "job-name", "nodes", "partition", "time", "account", "nodelist", "workdir", "application-info", "data-info",
		"supplementary-input-scripts", "supplementary-output-scripts", "singularity-supplementary-flags", "arguments", "follow")
}

// nodesValue is a number of nodes, or a range.
type nodesValue slurm.Script

func (v *nodesValue) String() string {
	switch {
	case v == nil:
		return ""
	case v.MinNodes > 0:
		return fmt.Sprintf("%d-%d", v.MinNodes, v.Nodes)
	}
	return strconv.Itoa(v.Nodes)
}

func (v *nodesValue) Set(s string) (err error) {
	v.MinNodes, v.Nodes, err = slurm.ParseNodes(shellwords.Unquote(s))
	return err
}

// options checks what the flags say and completes them from the configuration.
func (j *jobFlags) options(c *client) (jobprep.Options, error) {
	o, job := j.o, c.conf.Job
	o.ByHand = j.noSubmit
	setDefault(&o.Workdir, job.Workdir)
	setDefault(&o.Script.Partition, job.Partition)
	setDefault(&o.Script.Account, job.Account)
	setDefault(&o.Script.Time, job.Time)
	o.Script.JobName = strings.ReplaceAll(o.Script.JobName, "/", "_") // as HPCS names jobs and their logs
	o.LogName = o.Script.JobName
	setDefault(&o.Script.JobName, "sealbatch")
	if o.Workdir = filepath.Clean(o.Workdir); !filepath.IsAbs(o.Workdir) {
		return o, usageError("--workdir is needed: an absolute path at the site", "or set [job] workdir in the configuration")
	}
	var err error
	if o.Args, err = shellwords.SplitArgs(j.args); err != nil {
		return o, fault.New(fault.Usage, wrap("-args", err), "")
	}
	if o.Flags, err = shellwords.SplitArgs(j.flags); err != nil {
		return o, fault.New(fault.Usage, wrap("-flags", err), "")
	}
	if o.Tier, err = manifest.ParseTier(strings.ToUpper(j.tier)); err != nil {
		return o, fault.New(fault.Usage, wrap("--tier", err), "")
	}
	setDefault(&o.Attest, builtin.Default(o.Tier))
	if _, err := builtin.Types.Lookup(o.Attest); err != nil {
		return o, fault.New(fault.Usage, wrap("--attest", err), "")
	}
	if o.Valid, err = text.ParseSpan(j.valid); err != nil {
		return o, fault.New(fault.Usage, wrap("--valid", err), "")
	}
	if o.Valid > keyapi.MaxManifestLife {
		return o, usageError("--valid "+j.valid+" is longer than the key service keeps a job's keys ready", "30d is the longest")
	}
	o.Script.Setup, o.Script.SealTime = c.conf.Supercomputer.Setup, job.SealTime
	if j.sealTime != "" {
		if o.Script.SealTime, err = text.ParseSeconds(j.sealTime); err != nil {
			return o, fault.New(fault.Usage, wrap("--seal-time", err), "")
		}
	}
	for _, r := range j.raw {
		key, value, _ := strings.Cut(strings.TrimLeft(r, "-"), "=")
		o.Script.Raw = append(o.Script.Raw, slurm.KV{Key: key, Value: value})
	}
	if _, err := sandbox.ParseMode(c.conf.Supercomputer.Mounts); err != nil {
		return o, fault.New(fault.Config, fmt.Errorf("%s: [supercomputer] mounts: %w", c.conf.Path, err), "")
	}
	o.Mounts = c.conf.Supercomputer.Mounts
	o.Runtime, o.Cluster = c.conf.Supercomputer.Runtime, c.conf.Supercomputer.Cluster
	if files := c.identityFiles(); len(files) > 0 {
		o.Identity = files[0]
	}
	if o.Recipients, _, err = c.ageRecipients(nil); err != nil {
		return o, err
	}
	o.Programs, err = travellingPrograms()
	return o, err
}

// travellingPrograms are this program and the gocryptfs beside it.
func travellingPrograms() ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return []string{self, filepath.Join(filepath.Dir(self), jobdir.Gocryptfs)}, nil
}

func setDefault(dst *string, value string) {
	if *dst == "" {
		*dst = value
	}
}

func usageError(what, hint string) error { return fault.New(fault.Usage, errors.New(what), hint) }

func runJobPrep(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch job-prep", "Run a prepared image on a prepared dataset.", "", `
sealbatch job-prep -N 1 -p standard -t 00:60:00 -A project_1 --workdir /scratch/project_1/etellier \
    -ai /scratch/project_1/etellier/encrypted_prepared_jp2a.sif.info.yaml \
    -di /scratch/project_1/etellier/encrypted_jp2a_input.tgz.info.yaml \
    -args "/sd-container/encrypted/jp2a_input/image.png --output=/sd-container/output/result" -f`)
	var j jobFlags
	j.define(f)
	if err := a.parse(f, args); err != nil {
		return err
	}
	if err := j.byHand(); err != nil {
		return err
	}
	c, err := loadClient(ctx, a, j.clientFlags)
	if err != nil {
		return err
	}
	if !j.dryRun {
		if _, err := a.state(); err != nil {
			return err
		}
	}
	d, err := c.jobDeps(ctx)
	if err != nil {
		return err
	}
	d.Followed = j.follow
	if j.goOn != "" {
		return continueJob(ctx, a, c, d, j)
	}
	o, err := j.options(c)
	if err != nil {
		return err
	}
	if j.dryRun {
		text, err := jobprep.DryRun(d, o)
		fmt.Fprint(a.stdout, text)
		return err
	}
	return prepareJob(ctx, a, c, d, o, j)
}

// prepareJob prepares a job and, unless it is left to be submitted by hand, submits it.
func prepareJob(ctx context.Context, a *app, c *client, d jobprep.Deps, o jobprep.Options, j jobFlags) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	defer func() { c.close() }() // of the newest connection
	d.FS, d.Slurm = c.fs, c.slurm()
	ca, err := c.authority(ctx)
	if err != nil {
		return err
	}
	d.Service.CA = ca
	p, err := jobprep.Prepare(ctx, d, o)
	if err != nil {
		return err
	}
	defer p.Close()
	if j.noSubmit {
		return leaveScript(a, p, j.script)
	}
	rec, err := jobprep.Submit(ctx, d, p)
	p.Close()
	if err != nil {
		return err
	}
	a.log.Info("submitted", "job", rec.JobID, "directory", transfer.At(rec.JobDir))
	fmt.Fprintln(a.stdout, rec.JobID)
	return followJob(ctx, a, d, rec, j)
}

// continueJob takes up a run that an earlier job-prep began.
func continueJob(ctx context.Context, a *app, c *client, d jobprep.Deps, j jobFlags) error {
	rec, err := findJob(d.Store, j.goOn)
	if err != nil {
		return err
	}
	if err := c.connect(ctx); err != nil {
		return err
	}
	defer func() { c.close() }() // of the newest connection
	d.FS, d.Slurm = c.fs, c.slurm()
	if rec, err = jobprep.Continue(ctx, d, rec, j.o.Force); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, rec.JobID)
	return followJob(ctx, a, d, rec, j)
}

// followJob follows the job with its log, or, as HPCS does without -f, says
// where the results will be.
func followJob(ctx context.Context, a *app, d jobprep.Deps, rec submission.Record, j jobFlags) error {
	if !j.follow {
		a.log.Info("when it has run: sealbatch results " + rec.JobID)
		return nil
	}
	code, err := jobprep.Follow(ctx, d, rec, jobprep.FollowOptions{Out: a.stderr, Log: true, Keep: j.o.Force})
	if err != nil {
		return err
	}
	meaning := meaningOf(code)
	if code == jobprep.NoExitCode {
		code, meaning = exitCodes[fault.Job], "the job ended without an exit code of the application's"
	}
	a.log.Info("ended", "job", rec.JobID, "exit", code, "meaning", meaning)
	a.log.Info("its results: sealbatch results " + rec.JobID)
	if code != 0 {
		return exitStatus(code)
	}
	return nil
}

// meaningOf returns a job's exit code in words.
func meaningOf(code int) string {
	for _, m := range noderun.ExitMeanings() {
		if m.Code == code {
			return m.Meaning
		}
	}
	switch {
	case code == 0:
		return "everything went well"
	case code == 128+int(syscall.SIGKILL):
		return "killed by SIGKILL: the application, or the whole job before it could seal its results"
	case code > 128 && code <= 128+64:
		return fmt.Sprintf("ended by signal %d", code-128)
	}
	return "the application's own exit code"
}

// jobDeps are job-prep's parties but for the site.
func (c *client) jobDeps(ctx context.Context) (jobprep.Deps, error) {
	trust, err := c.trust(ctx)
	if err != nil {
		return jobprep.Deps{}, err
	}
	store, err := submission.Open("")
	return jobprep.Deps{
		Evidence: builtin.Types,
		Keys:     c.keys, Signer: c.signer, Trust: trust, Store: store,
		Service: jobprep.ServiceConf{URL: c.conf.Service.URL}, Address: c.conf.Supercomputer.Address,
		Log: c.a.log, Progress: c.progress,
		Reconnect: func(ctx context.Context) (transfer.FS, slurm.Runner, error) {
			fsys, err := c.reconnect(ctx)
			return fsys, c.run, err
		},
	}, err
}
