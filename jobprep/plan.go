package jobprep

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// planned is a job while it is being put together.
type planned struct {
	d   Deps
	o   Options
	run string

	volumes   []manifest.Info      // the image, then the inputs
	hpcs      map[string]hpcsInput // by volume id: those of the volumes that HPCS encrypted
	inputSh   []scriptFile
	outputSh  []scriptFile
	binaries  []manifest.FileRef
	service   keyapi.Service
	private   []byte // manifest.Private, encoded
	user      string // at the site
	sealShare bool   // the seal time is a share of the time limit
	// partition is the only one in which the job may run, nodes are those on which it will run: as far as Slurm says.
	partition string
	nodes     []string
}

func (p *planned) at(elem ...string) string {
	return path.Join(append([]string{jobdir.Path(p.o.Workdir, p.run)}, elem...)...)
}

func (p *planned) logFile() string { return p.at(jobdir.LogName) }

// plan reads and checks everything that the job will use.
func plan(ctx context.Context, d Deps, o Options) (*planned, error) {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	p := &planned{d: d, o: o, run: NewRun()}
	flags, err := manifest.ParseFlags(o.Flags)
	if err != nil {
		return nil, fault.New(fault.Usage, fmt.Errorf("-flags: %w", err), "")
	}
	if p.private, err = manifest.NewPrivate(o.Args, o.Flags).Encode(); err != nil {
		return nil, fault.New(fault.Usage, err, "")
	}
	if p.user, err = siteUser(ctx, d.Slurm.Runner); err != nil {
		return nil, err
	}
	if err := slurm.CheckBash(ctx, d.Slurm.Runner); err != nil {
		return nil, err
	}
	if err := p.readInfos(ctx); err != nil {
		return nil, err
	}
	for _, i := range p.volumes {
		if flags.HostBinds && !i.Policy.HostBinds {
			return nil, fault.New(fault.Key, fmt.Errorf("-flags binds paths of the node, which the owner of %s does not permit", i.Name),
				"leave the bind out, or ask the owner for a policy with host binds")
		}
		if i.Policy.Network == manifest.NetworkNone && p.o.Network != manifest.NetworkNone {
			d.Log.Info("the job runs without a network, as the owner demands", "volume", i.Name)
			p.o.Network = manifest.NetworkNone
		}
	}
	if p.inputSh, err = p.readScripts(o.InputScripts); err != nil {
		return nil, err
	}
	if p.outputSh, err = p.readScripts(o.OutputScripts); err != nil {
		return nil, err
	}
	if err := p.digestPrograms(); err != nil {
		return nil, err
	}
	p.chooseSealTime()
	if err := p.foresee(ctx); err != nil {
		return nil, err
	}
	notes, err := transfer.CheckAncestors(d.FS, o.Workdir)
	if err != nil {
		return nil, fmt.Errorf("work directory: %w", err)
	}
	for _, n := range notes {
		d.Log.Info(n)
	}
	p.service, err = d.Keys.Service(ctx)
	return p, err
}

// chooseSealTime sets when the job seals its results by its time limit, if nobody has said it. A job that names no limit
// gets the shortest of those that its partitions give.
func (p *planned) chooseSealTime(chosen ...slurm.Partition) {
	if p.o.Script.SealTime != 0 && !p.sealShare {
		return
	}
	limit, _ := slurm.ParseTime(p.o.Script.Time) // Render says what is wrong with it
	for _, c := range chosen {
		if usual := cmp.Or(c.Usual, c.MaxTime); p.o.Script.Time == "" && usual > 0 && (limit == 0 || usual < limit) {
			limit = usual
		}
	}
	p.o.Script.SealTime, p.sealShare = slurm.SealTime(limit), true
}

// siteUser asks the site as whom jobs will run: SSH configuration can
// map names in ways that only the site knows.
func siteUser(ctx context.Context, r slurm.Runner) (string, error) {
	out, errOut, exit, err := r.Run(ctx, []string{"id", "-un"}, nil)
	name := strings.TrimSpace(string(out))
	if err == nil && (exit != 0 || name == "") {
		err = fmt.Errorf("id -un ended with status %d: %.200s", exit, text.Printable(strings.TrimSpace(string(errOut))))
	}
	if err != nil {
		return "", fmt.Errorf("ask the login node for the user's name: %w", err)
	}
	return name, nil
}

func (p *planned) digestPrograms() error {
	programs := jobdir.Programs()
	if len(p.o.Programs) != len(programs) {
		return errors.New("sealbatch and gocryptfs must travel with the job")
	}
	for i, file := range p.o.Programs {
		f, err := os.Open(file)
		if err != nil {
			return fault.New(fault.Other, fmt.Errorf("program for the nodes: %w", err),
				"gocryptfs belongs beside sealbatch: make build puts both there")
		}
		h := sha256.New()
		n, err := io.Copy(h, f)
		f.Close()
		if err != nil {
			return fmt.Errorf("program for the nodes: %s: %w", filepath.Base(file), err)
		}
		p.binaries = append(p.binaries, manifest.FileRef{Name: programs[i], Digest: manifest.Digest(h.Sum(nil)), Size: n})
	}
	return nil
}

// manifest pins the plan.
func (p *planned) manifest() (manifest.Manifest, error) {
	now := time.Now().UTC().Truncate(time.Second)
	m := manifest.Manifest{
		Format: manifest.Format, Run: p.run, Created: now, Expires: now.Add(p.o.Valid),
		Service: manifest.Service{URL: p.d.Service.URL, ID: p.service.ID, CA: p.d.Service.CA, StatementKey: p.service.StatementKey},
		Tier:    p.o.Tier, InputScripts: scriptRefs(p.inputSh), OutputScripts: scriptRefs(p.outputSh), Binaries: p.binaries,
		Private: manifest.DigestOf(p.private), User: p.user, Runtime: p.o.Runtime,
		Network: p.o.Network, Recipients: p.o.Recipients,
		JobDir: p.at(), Nodes: p.o.Script.Nodes, MinNodes: p.o.Script.MinNodes, SealSeconds: int(p.o.Script.SealTime / time.Second),
	}
	var err error
	m.Attest, m.Cluster, err = p.d.Evidence.Plan(p.o.Attest,
		evidence.Submission{Service: p.service, Cluster: p.o.Cluster, Tier: p.o.Tier})
	if err != nil {
		return m, err
	}
	for _, i := range p.volumes {
		if in, ok := p.hpcs[i.VolumeID]; ok {
			m.Volumes = append(m.Volumes, in.ref)
			continue
		}
		ref, err := volumeRef(i)
		if err != nil {
			return m, err
		}
		m.Volumes = append(m.Volumes, ref)
	}
	return m, fault.New(fault.Usage, m.Validate(), "")
}

// signedManifest is a manifest as it is stored and registered.
type signedManifest struct {
	bytes, sig []byte
	digest     manifest.Digest
}

func (p *planned) sign(m manifest.Manifest) (signedManifest, error) {
	b, err := m.Encode()
	if err != nil {
		return signedManifest{}, err
	}
	sig, err := sshid.SignSSH(p.d.Signer, manifest.NamespaceManifest, b)
	if err != nil {
		return signedManifest{}, fmt.Errorf("sign the manifest: %w", err)
	}
	return signedManifest{b, sig, manifest.DigestOf(b)}, nil
}

// realDir returns where the job's directory will be without symbolic links; "" if that cannot be told.
func (p *planned) realDir() string {
	real, err := p.d.FS.RealPath(path.Dir(p.at()))
	if err != nil || !path.IsAbs(real) {
		return ""
	}
	return path.Join(real, path.Base(p.at()))
}

// register registers the manifest, which the key service refuses if it can tell that the job would get no key.
func (p *planned) register(ctx context.Context, s signedManifest) error {
	if p.o.Force {
		_, err := p.d.Keys.RegisterManifest(ctx, s.bytes, s.sig, p.private)
		return err
	}
	_, err := p.d.Keys.RegisterJob(ctx, s.bytes, s.sig, p.private, p.expect())
	return err
}

// credentials says what the credentials of the job's type of evidence are; "" if
// there are none.
func (p *planned) credentials() string {
	if c := p.d.Evidence[p.o.Attest].Credentials; c != nil {
		return c.What
	}
	return ""
}

// complete returns a job's rendered script with new credentials for its nodes, if
// it has any: from then on it is a secret. The manifest has to be registered.
func (d Deps) complete(ctx context.Context, script []byte, rec submission.Record) ([]byte, error) {
	if !slurm.NeedsInput(script) {
		return script, nil
	}
	typ, err := d.Evidence.Lookup(rec.Attest)
	if err != nil {
		return nil, err
	}
	if typ.Credentials == nil {
		return nil, fmt.Errorf("evidence of type %s needs no credentials, and the job's script does", rec.Attest)
	}
	secrets, err := typ.Credentials.Obtain(ctx, d.Keys, rec.Manifest, rec.Nodes)
	if err != nil {
		return nil, fmt.Errorf("obtain %s: %w", typ.Credentials.What, err)
	}
	return slurm.WithInput(script, secrets)
}

// render writes the batch script, without the nodes' credentials; digest is the
// manifest's.
func (p *planned) render(digest manifest.Digest) ([]byte, error) {
	s := p.o.Script
	s.Dir, s.Log, s.Input = p.at(), jobdir.LogName, p.credentials()
	s.Pin = slurm.Pin{Name: jobdir.ManifestName, SHA256: digest.Hex()}
	s.Node = slurm.NodeRun{Command: "node-run", Args: []string{"--job-dir", p.at(), "--digest", digest.String()}}
	if p.o.Mounts != "" {
		s.Node.Args = append(s.Node.Args, "--mounts", p.o.Mounts)
	}
	for _, b := range p.binaries {
		s.Node.Binaries = append(s.Node.Binaries,
			slurm.Binary{Name: b.Name, Path: path.Join(jobdir.BinDir, b.Name), SHA256: b.Digest.Hex(), Size: b.Size})
	}
	return s.Render()
}

// layOut writes the job's directory, mode 0700. Everything in it is new: whatever its path has come
// to lead to meanwhile, nothing is replaced there. The manifest comes first, since it tells the
// directory from another (jobdir.Removal).
func (p *planned) layOut(ctx context.Context, m signedManifest, script []byte) error {
	if err := p.d.FS.Mkdir(p.at(), 0o700); err != nil {
		return err
	}
	if err := p.write(ctx, jobdir.ManifestName, m.bytes); err != nil {
		return err
	}
	for _, d := range []string{jobdir.BinDir, jobdir.NodesDir, jobdir.ScriptsDir} {
		if err := p.d.FS.Mkdir(p.at(d), 0o700); err != nil {
			return err
		}
	}
	if err := p.shipPrograms(ctx); err != nil {
		return err
	}
	for stage, files := range map[string][]scriptFile{jobdir.InputStage: p.inputSh, jobdir.OutputStage: p.outputSh} {
		if err := p.layOutScripts(ctx, path.Join(jobdir.ScriptsDir, stage), files); err != nil {
			return err
		}
	}
	if err := p.write(ctx, jobdir.SignatureName, m.sig); err != nil {
		return err
	}
	return p.write(ctx, jobdir.ScriptName, script)
}

// linkLog makes the log known under the name that HPCS gives it. Nothing depends on that.
func (p *planned) linkLog(ctx context.Context) {
	name := strings.ReplaceAll(cmp.Or(p.o.LogName, "lumi-sd_"+p.user), "/", "_") + jobdir.LogLinkSuffix
	if err := jobdir.LinkLog(ctx, p.d.Slurm.Runner, p.o.Workdir, name, p.run); err != nil {
		p.d.Log.Debug("no link to the log", "error", err)
		p.d.Log.Info("the log has no second name, since something else has that or links cannot be made there", "name", name)
	}
}

// write writes a small file of the job's directory.
func (p *planned) write(ctx context.Context, name string, content []byte) error {
	return transfer.WriteNew(ctx, p.d.FS, bytes.NewReader(content), int64(len(content)), p.at(name),
		transfer.UploadOptions{Mode: 0o600})
}

func (p *planned) shipPrograms(ctx context.Context) error {
	for i, file := range p.o.Programs {
		ref := p.binaries[i]
		bar := p.d.Progress.Start("uploading "+ref.Name, 0, ref.Size)
		err := transfer.UploadFile(ctx, p.d.FS, file, p.at(jobdir.BinDir, ref.Name), transfer.UploadOptions{
			Mode: 0o700, Progress: func(done int64) { bar.Update(done, ref.Size) },
		})
		bar.End(err == nil)
		if err != nil {
			return err
		}
	}
	return nil
}
