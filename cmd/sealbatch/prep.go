package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sealbatch/sealbatch/internal/text"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/containerprep"
	"github.com/sealbatch/sealbatch/dataprep"
	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/ui"
)

func runDataPrep(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch data-prep", "Seal a dataset, ship it to the supercomputer, and say who may open it there.", "", `
sealbatch data-prep -i jp2a_input -o . -u etellier -c nid003044 \
    --data-path ./encrypted_jp2a_input.tgz --data-path-at-rest /scratch/project_1/etellier/`)
	var cf clientFlags
	var o dataprep.Options
	var pf policyFlags
	cf.add(f)
	var in inputFlags
	f.Strings(&in.paths, "directory or file to seal; of a tar archive (.tar, .tgz, .tar.gz, .tar.zst, .tar.xz, .tar.bz2) the contents;\n- for a tar archive on standard input; of several, each is an entry", []string{"i", "input-path", "input-data"}, ui.Required)
	in.add(f)
	f.String(&o.OutputDir, "local directory of the sealed volume, when --data-path is not given", []string{"o", "output-path", "output-data"})
	f.String(&o.DataPath, "local path of the sealed volume", []string{"data-path"})
	f.String(&o.AtRest, "directory on the supercomputer", []string{"data-path-at-rest"}, ui.Required)
	f.Word(&o.Name, "directory below /sd-container/encrypted (default: the input's name, an archive's without its ending)", []string{"name"})
	pf.require(f)
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	var err error
	if o.Input, err = in.input(a); err != nil {
		return err
	}
	if o.Policy, err = pf.Policy(time.Now()); err != nil {
		return err
	}
	return runPublish(ctx, a, cf, func(c *client, d publish.Deps) (_ publish.Published, err error) {
		if o.Readers, o.Recipients, err = c.ageRecipients(a.plugins()); err != nil {
			return publish.Published{}, err
		}
		if err := c.ofCluster(ctx, &o.Policy); err != nil {
			return publish.Published{}, err
		}
		o.AtRest, o.ServiceURL = filepath.Clean(o.AtRest), c.conf.Service.URL
		return dataprep.Run(ctx, d, o)
	})
}

func runContainerPrep(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch container-prep", "Seal a container image, ship it to the supercomputer, and say who may run it there.", "", `
sealbatch container-prep -b jp2a.sif -s . -e -u etellier -c nid003044 \
    --data-path ./encrypted_prepared_jp2a.sif --data-path-at-rest /scratch/project_1/etellier/`)
	var cf clientFlags
	var o containerprep.Options
	var pf policyFlags
	var encrypted bool
	var docker, dockerHost string
	cf.add(f)
	f.String(&o.Image, "image to prepare: a .sif file", []string{"b", "base-oci-image"}, ui.Required)
	f.String(&o.OutputDir, "local directory of the sealed volume, when --data-path is not given", []string{"s", "sif-path"})
	f.Bool(&encrypted, "HPCS's switch for encryption; sealbatch always encrypts", []string{"e", "encrypted"})
	f.String(&docker, "HPCS's Docker socket; not needed", []string{"d", "docker-path"})
	f.String(&dockerHost, "HPCS's Docker socket; not needed", []string{"docker-host-path"})
	f.String(&o.DataPath, "local path of the sealed volume", []string{"data-path"})
	f.String(&o.AtRest, "directory on the supercomputer", []string{"data-path-at-rest"}, ui.Required)
	pf.require(f)
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	if o.DataPath == "" && o.OutputDir == "" {
		return fault.New(fault.Usage, fmt.Errorf("where should the sealed image go?"), "give --data-path FILE, or -s DIRECTORY")
	}
	var err error
	if o.Policy, err = pf.Policy(time.Now()); err != nil {
		return err
	}
	return runPublish(ctx, a, cf, func(c *client, d publish.Deps) (_ publish.Published, err error) {
		if o.Readers, o.Recipients, err = c.ageRecipients(a.plugins()); err != nil {
			return publish.Published{}, err
		}
		if err := c.ofCluster(ctx, &o.Policy); err != nil {
			return publish.Published{}, err
		}
		o.AtRest, o.ServiceURL = filepath.Clean(o.AtRest), c.conf.Service.URL
		return containerprep.Run(ctx, d, o)
	})
}

// runPublish connects, runs one of the two and says what came of it.
func runPublish(ctx context.Context, a *app, cf clientFlags, run func(*client, publish.Deps) (publish.Published, error)) error {
	c, err := loadClient(ctx, a, cf)
	if err != nil {
		return err
	}
	if err := c.connect(ctx); err != nil {
		return err
	}
	defer func() { c.close() }() // of the newest connection
	state, err := config.StateDir()
	if err != nil {
		return err
	}
	p, err := run(c, publish.Deps{FS: c.fs, Keys: c.keys, Signer: c.signer, Reconnect: c.reconnect, State: state,
		Identities: func() ([]age.Identity, error) { return c.identities(c.identityFile()) }, Log: a.log, Progress: c.progress})
	if err != nil {
		return err
	}
	a.log.Info("sealed and shipped", "volume", p.Info.VolumeID, "size", text.Size(p.Info.Size), "expires", p.Info.Policy.Expires.Format(time.DateOnly))
	fmt.Fprintln(a.stdout, p.InfoPath)
	return nil
}
