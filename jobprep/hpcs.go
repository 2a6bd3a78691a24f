package jobprep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/hpcs"
	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// hpcsInput is a file that HPCS encrypted, which the job decrypts.
type hpcsInput struct {
	ref  manifest.VolumeRef
	file string // the file's own name
	key  []byte // for the nodes
}

// byHPCS reports whether HPCS wrote an info file.
func (p *planned) byHPCS(file string) bool {
	b, err := transfer.ReadFile(p.d.FS, file, maxSmall)
	if err != nil {
		return false // what is wrong, reading it says
	}
	_, err = manifest.ParseInfo(b)
	return errors.Is(err, manifest.ErrHPCSInfo)
}

// readHPCS reads an info file that HPCS wrote, looks into the file that it speaks of, and says what that costs. It is not
// signed: what vouches for the file is the submitter, who signs the manifest.
func (p *planned) readHPCS(ctx context.Context, file string, kind manifest.Kind) (manifest.Info, error) {
	a, err := hpcs.AtSite(p.d.FS, file, p.o.HPCSKeys)
	if err != nil {
		return manifest.Info{}, err
	}
	in := hpcsInput{file: path.Base(a.Path), ref: manifest.VolumeRef{
		Kind: kind, Path: a.Path, VolumeID: NewRun(), Size: a.Size, HPCS: manifest.NewHPCSFile(a.Info.Checksum),
	}}
	in.ref.Digest = in.ref.HPCS.Digest(kind)
	info := manifest.Info{Kind: kind, VolumeID: in.ref.VolumeID, PathAtRest: a.Path, Policy: manifest.Policy{
		Nodes: []string{"*"}, HostBinds: true, Expires: manifest.Never, // one's own: nothing is demanded
	}}
	command, size := "data-prep", "more than "+text.Size(a.Plain) // as an archive is compressed
	if kind == manifest.KindImage {
		command, size = "container-prep", text.Size(a.Plain)
		err = in.image(a, &info)
	} else {
		err = in.dataset(ctx, a, &info)
	}
	if err != nil {
		return info, err
	}
	if in.key, err = a.JobKey(); err != nil {
		return info, err
	}
	if p.hpcs == nil {
		p.hpcs = map[string]hpcsInput{}
	}
	p.hpcs[info.VolumeID] = in
	p.d.Log.Warn("HPCS's info files are not signed: it is you who vouches for this file, by the job's manifest", "file", a.Shown)
	p.d.Log.Warn(fmt.Sprintf("each node decrypts it and writes its content once more, encrypted, below the work directory: that needs "+
		"%s there and the time to unpack it, in each job; once for all: sealbatch %s --from-hpcs %s", size, command, shellwords.QuoteArgs(file)))
	return info, nil
}

// dataset looks how the archive in a begins, by which the dataset is called.
func (in *hpcsInput) dataset(ctx context.Context, a *hpcs.Artefact, info *manifest.Info) error {
	top, err := a.Top(ctx)
	if err != nil {
		return err
	}
	if in.ref.Name = cmp.Or(top, hpcs.Name(a.Path)); in.ref.Name == "" {
		return fault.New(fault.Usage, fmt.Errorf("%s: neither the file nor what is in it has a name for the dataset", a.Shown),
			"give it one: data-prep --from-hpcs FILE --name NAME")
	}
	info.Name = in.ref.Name
	return nil
}

// image reads what the image in a says of itself.
func (in *hpcsInput) image(a *hpcs.Artefact, info *manifest.Info) error {
	content, file, err := a.Content()
	if err != nil {
		return err
	}
	said, err := image.InspectAt(content, a.Plain, a.Shown)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if said.HPCS {
		in.ref.HPCS.Prepared = manifest.PreparedHPCS
	}
	in.ref.Name, info.Name = "image", hpcs.Name(a.Path)
	info.Image = &manifest.Image{Reference: in.file, Of: manifest.OfFile, Platform: "linux/" + said.Arch}
	return nil
}

// withoutUse refuses keys for nothing.
func (p *planned) withoutUse() error {
	if len(p.o.HPCSKeys) == 0 || len(p.hpcs) > 0 {
		return nil
	}
	return fault.New(fault.Usage, errors.New("--hpcs-key is the key of what HPCS prepared, and no info file here is HPCS's"), "leave it out")
}

// deposit gives the key service the keys of what HPCS encrypted, for this job alone: they expire with its manifest.
func (p *planned) deposit(ctx context.Context, m manifest.Manifest) error {
	for _, v := range m.Volumes {
		in, ok := p.hpcs[v.VolumeID]
		if !ok {
			continue
		}
		_, err := p.d.Keys.PutSecret(ctx, v.VolumeID, keyapi.Secret{
			Name: v.Name, Kind: v.Kind, Digest: v.Digest, Size: v.Size, Key: in.key, Policy: p.jobPolicy(m),
			// Versions have the same name: nothing else has this one.
			File: fmt.Sprintf("%.200s for job %s %s", in.file, m.Run[:16], v.VolumeID[:12]),
		})
		clear(in.key)
		if err != nil {
			return fmt.Errorf("deposit the key of %s: %w", transfer.At(v.Path), err)
		}
	}
	return nil
}

// jobPolicy lets the nodes of one job have a key.
func (p *planned) jobPolicy(m manifest.Manifest) manifest.Policy {
	policy := manifest.Policy{
		Users: []string{m.User}, Nodes: []string{"*"}, Tier: m.Tier, Expires: m.Expires, Evidence: m.Attest.Type,
		HostBinds: true, Network: m.Network, PinVersion: true,
	}
	if m.Cluster != "" {
		policy.Clusters = []string{m.Cluster}
	}
	if len(p.nodes) > 0 && len(p.nodes) >= m.Nodes { // else Slurm adds others
		policy.Nodes = []string{p.o.Script.NodeList}
		if policy.Validate() != nil { // more names than a policy has room for
			policy.Nodes = []string{"*"}
		}
	}
	return policy
}

// forget has the key service destroy what was deposited for a job that does not run.
func (d Deps) forget(ctx context.Context, rec submission.Record) {
	for _, id := range rec.Deposited {
		if err := d.Keys.Delete(ctx, id); err != nil && !errors.Is(err, keyclient.ErrNotFound) {
			d.Log.Warn("a key that was deposited for the job alone stays at the key service until it expires", "volume", id, "error", err)
		}
	}
}
