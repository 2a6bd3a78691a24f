package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/containerprep"
	"github.com/sealbatch/sealbatch/dataprep"
	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/hpcs"
	"github.com/sealbatch/sealbatch/internal/output"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// prepFlags are what data-prep and container-prep have in common.
type prepFlags struct {
	client clientFlags
	policy policyFlags
	yes    bool // do not ask
}

// add puts the flags of a sealed volume's target into f.
func (p *prepFlags) add(f *ui.Flags, t *publish.Target) {
	f.String(&t.SealedPath, "local path of the sealed volume", []string{"data-path"})
	f.Bool(&t.Force, "replace the file that has the sealed volume's local path, if it was not sealed there before",
		[]string{"force"}, ui.Whole)
	f.String(&t.DirAtRest, "directory at the site", []string{"data-path-at-rest"}, ui.Required)
	f.Bool(&t.Checksum, "find out by reading all of it whether the input is published already, not by names, sizes, times and inodes:\n"+
		"the same content with other times counts as there", []string{"checksum"})
	f.Bool(&p.yes, "do not ask, on a terminal, before a new version is made while jobs wait for the older one",
		[]string{"y", "yes"}, ui.Whole)
}

func runDataPrep(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch data-prep", "Seal a dataset, ship it to the site, and say who may open it there.", "", `
sealbatch data-prep -i jp2a_input -o . -u etellier -c nid003044 \
    --data-path ./encrypted_jp2a_input.tgz --data-path-at-rest /scratch/project_1/etellier/`)
	var o dataprep.Options
	var pf prepFlags
	var in inputFlags
	pf.client.add(f)
	f.Strings(&in.paths, "directory or file to seal; of a tar archive (.tar, .tgz, .tar.gz, .tar.zst, .tar.xz, .tar.bz2) the contents;\n"+
		"- for a tar archive on standard input; of several, each is an entry", []string{"i", "input-path", "input-data"},
		ui.RequiredUnless("from-hpcs"))
	addHPCS(f, &o.HPCS)
	in.add(f)
	f.String(&o.OutputDir, "local directory of the sealed volume, when --data-path is not given",
		[]string{"o", "output-path", "output-data"})
	pf.add(f, &o.Target)
	f.Word(&o.Name, "directory below /sd-container/encrypted (default: the input's name, an archive's without its ending)",
		[]string{"name"})
	pf.policy.require(f)
	f.Prefer("config", "data-path", "data-path-at-rest", "username", "users", "groups", "compute-nodes", "input-path", "input-data",
		"output-path", "output-data")
	if err := a.parse(f, args); err != nil {
		return err
	}
	if err := onlyHPCS(o.HPCS, "-i", len(in.paths) > 0); err != nil {
		return err
	}
	var err error
	if o.Input, err = in.input(a); err != nil {
		return err
	}
	if err := notStdout(o.OutputDir); err != nil {
		return err
	}
	return pf.publish(ctx, a, &o.Target, func(_ *config.Client, d publish.Deps) (publish.Published, error) {
		return dataprep.Run(ctx, d, o)
	})
}

// addHPCS adds the flags for what HPCS prepared.
func addHPCS(f *ui.Flags, n *hpcs.Named) {
	f.String(&n.Path, "seal what HPCS prepared, in place of that: its info file (FILE.info.yaml), or FILE, on this machine or at the site.\n"+
		"It is decrypted as it is sealed, never on disk, and held against the checksum that the info file says", []string{"from-hpcs"})
	f.String(&n.KeyFile, "file of the key of what HPCS prepared: AGE-SECRET-KEY-1..., readable by you alone", []string{"hpcs-key"})
}

// onlyHPCS refuses what HPCS prepared beside another input, and its key without it.
func onlyHPCS(n hpcs.Named, flag string, other bool) error {
	switch {
	case n.Path != "" && other:
		return fault.New(fault.Usage, fmt.Errorf("%s and --from-hpcs exclude each other", flag), "prepare them one after the other")
	case n.Path == "" && n.KeyFile != "":
		return fault.New(fault.Usage, errors.New("--hpcs-key is the key of what --from-hpcs names"), "name the file with --from-hpcs")
	}
	return nil
}

// imageMemory is how many bytes the conversion of an image may have before garbage is collected more often, so that the
// program needs no more than 200 MB whatever the image: laptops and login nodes have little. Half a million files need 85 MB.
const imageMemory = 150 << 20

func runContainerPrep(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch container-prep", "Seal a container image, ship it to the site, and say who may run it there.", "", `
sealbatch container-prep -b talinx/jp2a -s . -e -u etellier -c nid003044 \
    --data-path ./encrypted_prepared_jp2a.sif --data-path-at-rest /scratch/project_1/etellier/`)
	var o containerprep.Options
	var pf prepFlags
	var encrypted bool
	var onHost string
	pf.client.add(f)
	f.String(&o.Image, "image to prepare: a .sif file, or one as Docker and Podman have them: in a registry (talinx/jp2a, docker://HOST/NAME:TAG,\n"+
		"docker://NAME@sha256:...), a file (docker-archive:FILE, oci-archive:FILE) or a directory (oci:DIRECTORY[:TAG]), or with the Docker\n"+
		"daemon (docker-daemon:NAME). A name alone is that of a file, else of an image of the daemon's, else of one in a registry",
		[]string{"b", "base-oci-image"}, ui.RequiredUnless("from-hpcs"))
	addHPCS(f, &o.HPCS)
	f.Word(&o.SignatureKey, "take the image only if cosign signed it with the private key to this public one, a file (cosign.pub);\n"+
		"images of registries alone have such signatures", []string{"require-signature"})
	f.Word(&o.SBOM, "seal this bill of materials, a file in the format of SPDX, CycloneDX or Syft, beside the image; the info file\n"+
		"and receipts have its digest", []string{"sbom"})
	f.Word(&o.Platform, "platform of the image, as OS/ARCHITECTURE[/VARIANT]: the nodes' (default: linux/amd64)", []string{"platform"})
	f.Word(&o.Compression, "of the SIF file that is made of an image: gzip, which all runtimes read (default), or zstd, which takes less work to read,\n"+
		"by Linux from 4.14 on", []string{"compression"})
	f.String(&o.OutputDir, "local directory of the sealed volume, when --data-path is not given", []string{"s", "sif-path"})
	f.Bool(&encrypted, "HPCS's switch for encryption; sealbatch always encrypts", []string{"e", "encrypted"})
	f.String(&o.DockerSocket, "socket of the Docker daemon (default: that of DOCKER_HOST, or /var/run/docker.sock)",
		[]string{"d", "docker-path"})
	f.String(&onHost, "the same socket, on the host of HPCS's container; used if it is there and -d is not given",
		[]string{"docker-host-path"})
	pf.add(f, &o.Target)
	pf.policy.require(f)
	f.Prefer("config", "data-path", "data-path-at-rest", "username", "users", "groups", "compute-nodes", "base-oci-image", "sif-path",
		"encrypted", "docker-path", "docker-host-path")
	if err := a.parse(f, args); err != nil {
		return err
	}
	if err := onlyHPCS(o.HPCS, "-b", o.Image != ""); err != nil {
		return err
	}
	if _, err := os.Stat(onHost); err == nil && o.DockerSocket == "" {
		o.DockerSocket = onHost
	}
	if o.SealedPath == "" && o.OutputDir == "" {
		return fault.New(fault.Usage, fmt.Errorf("where should the sealed image go?"), "give --data-path FILE, or -s DIRECTORY")
	}
	if err := notStdout(o.OutputDir); err != nil {
		return err
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(imageMemory)
	}
	return pf.publish(ctx, a, &o.Target, func(conf *config.Client, d publish.Deps) (publish.Published, error) {
		o.Mirrors = conf.Registry.Mirrors
		return containerprep.Run(ctx, d, o)
	})
}

// notStdout refuses - as the directory of what is made, if one is named.
func notStdout(dir string) error {
	if dir == "" {
		return nil
	}
	return output.Named(dir)
}

// publish completes t from the flags and the configuration, connects, runs one of
// the two and says what came of it.
func (p *prepFlags) publish(ctx context.Context, a *app, t *publish.Target,
	run func(*config.Client, publish.Deps) (publish.Published, error),
) error {
	if !strings.HasPrefix(t.DirAtRest, "/") {
		return fault.New(fault.Usage, fmt.Errorf("--data-path-at-rest %s is not an absolute path", t.DirAtRest),
			"name the directory at the site from / on, as in /scratch/project_1/etellier")
	}
	var err error
	if t.Policy, err = p.policy.Policy(time.Now()); err != nil {
		return err
	}
	c, err := loadClient(ctx, a, p.client)
	if err != nil {
		return err
	}
	t.Reads = c.reads()
	if err := t.Check(); err != nil {
		return err
	}
	state, err := a.state()
	if err != nil {
		return err
	}
	if err := c.connect(ctx); err != nil {
		return err
	}
	defer func() { c.close() }() // of the newest connection
	if t.Readers, t.Recipients, err = c.ageRecipients(a.plugins()); err != nil {
		return err
	}
	if err := p.policy.complete(ctx, c, &t.Policy); err != nil {
		return err
	}
	t.DirAtRest, t.ServiceURL, t.Expiry = filepath.Clean(t.DirAtRest), c.conf.Service.URL, p.policy.Expires
	out, err := run(c.conf, publish.Deps{
		FS: c.fs, Site: c.conf.Supercomputer.Address, Keys: c.keys, Signer: c.signer,
		Reconnect: c.reconnect, State: state, Log: a.log, Progress: c.progress,
		Identities: func() ([]age.Identity, error) { return c.identities(c.identityFiles()) },
		Waiting:    c.waiting,
		Confirm:    func(ctx context.Context, what string) error { return a.confirmIfAsked(ctx, p.yes, what) },
	})
	if err != nil {
		return err
	}
	what := "sealed and shipped"
	if out.Already {
		what = "already there, unchanged: nothing is sealed or shipped"
	}
	a.log.Info(what, "name", out.Info.Name, "volume", out.Info.VolumeID, "size", text.Size(out.Info.Size),
		"expires", out.Info.Policy.Expires.Format(time.DateOnly))
	fmt.Fprintln(a.stdout, out.InfoPath)
	return nil
}
