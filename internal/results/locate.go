package results

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// Registry is what the key service tells an account of its own manifests.
type Registry interface {
	ManifestsOf(ctx context.Context, job uint32, cluster string) (keyapi.ManifestList, error)
	Manifest(ctx context.Context, digest manifest.Digest) (keyapi.ManifestEntry, error)
}

// Finder finds jobs that were submitted elsewhere: on another machine, or in a container that is gone. Whoever can
// write the site's storage can put anything there, so what a job was is believed only
//
//   - by its manifest, which must be signed by who is trusted to submit jobs, and be made for the very directory, by
//     its own name, in which it lies;
//   - if that manifest is made for the configured key service;
//   - if the key service, where it knows it still, says the same of digest, run and directory. By a job's number
//     nothing is found but what the key service knows: the manifest there must be the one that this job is bound to.
type Finder struct {
	FS      transfer.FS
	Keys    Registry
	Service keyapi.Service // the configured one
	Trust   sshid.Trust    // whose manifests count
	Cluster string         // whose jobs are meant; "" any
	Address string         // of the login node, for the record
}

// Found is a job that was submitted elsewhere.
type Found struct {
	Record submission.Record
	Signer string // principal who signed the manifest, as sshid.Trust has it
	// Confirmed says that the key service knows the manifest. If not, the signature alone says that it is one's own.
	Confirmed bool
}

// ErrUnknownJob says that the key service knows no job of that number as the account's own.
var ErrUnknownJob = errors.New("the key service has given keys to no job of yours of that number, or has forgotten it")

// maxNamedRuns bounds the runs that an error names.
const maxNamedRuns = 10

// Job finds a job by Slurm's number: ErrUnknownJob, or submission.ErrAmbiguous if there are several.
func (f Finder) Job(ctx context.Context, id uint32) (Found, error) {
	list, err := f.Keys.ManifestsOf(ctx, id, f.Cluster)
	if err != nil {
		return Found{}, err
	}
	switch n := len(list.Manifests); {
	case n == 0:
		return Found{}, ErrUnknownJob
	case n > 1 || list.More:
		var runs []string
		for _, m := range list.Manifests[:min(n, maxNamedRuns)] {
			runs = append(runs, fmt.Sprintf("%s on %s, registered on %s", m.JobDir, m.Job.Cluster,
				m.Registered.Local().Format(time.DateOnly)))
		}
		return Found{}, fmt.Errorf("%w: %d: name one by its directory: %s", submission.ErrAmbiguous, id,
			strings.Join(runs, "; "))
	}
	return f.at(ctx, list.Manifests[0].JobDir, &list.Manifests[0])
}

// Dir finds a job by its directory's absolute path at the site.
func (f Finder) Dir(ctx context.Context, dir string) (Found, error) {
	return f.at(ctx, path.Clean(dir), nil)
}

// at rebuilds the record of the job in dir. known is what the key service says is there; nil if it is to be asked.
func (f Finder) at(ctx context.Context, dir string, known *keyapi.ManifestEntry) (found Found, err error) {
	signed, sig, err := f.read(dir, known != nil)
	if err != nil {
		return Found{}, err
	}
	if known != nil && manifest.DigestOf(signed) != known.Digest {
		err := fmt.Errorf("the manifest there is not the one that job %d was given keys for", known.Job.ID)
		return Found{}, notGenuine(dir, err)
	}
	m, digest, err := manifest.Parse(signed)
	if err != nil {
		return Found{}, notGenuine(dir, err)
	}
	if found.Signer, err = f.Trust.Check(manifest.NamespaceManifest, signed, sig, time.Now(), m.Created); err != nil {
		return Found{}, notGenuine(dir, fmt.Errorf("its manifest: %w", err))
	}
	if m.Service.ID != f.Service.ID || m.Service.StatementKey != f.Service.StatementKey {
		err := fmt.Errorf("%s: the job was submitted with key service %s, which is not the configured one, %s",
			transfer.At(dir), m.Service.ID, f.Service.ID)
		return Found{}, fault.New(fault.Config, err, "use the configuration with which it was submitted (--config)")
	}
	real, err := f.place(dir, m)
	if err != nil {
		return Found{}, err
	}
	if known == nil {
		if known, err = f.ask(ctx, digest); err != nil {
			return Found{}, err
		}
	}
	found.Record, found.Confirmed = f.record(m, digest, real), known != nil
	switch {
	case known == nil:
		found.Record.JobID = jobIn(f.FS, found.Record)
	case known.Run != m.Run || known.JobDir != m.JobDir:
		return Found{}, fmt.Errorf("%w: of manifest %s it says another run or directory", keyclient.ErrAnswer, digest)
	case known.Job != nil:
		found.Record.JobID = fmt.Sprint(known.Job.ID)
	}
	return found, nil
}

func notGenuine(dir string, err error) error {
	return fault.New(fault.Integrity, fmt.Errorf("%s: %w", transfer.At(dir), err),
		"no results are taken from there: somebody may have put it there; the machine that submitted the job knows "+
			"what it was")
}

// read reads a job directory's manifest and its signature. Nothing of them is believed yet. known says that the key
// service knows dir as a job's.
func (f Finder) read(dir string, known bool) (signed, sig []byte, err error) {
	info, err := f.FS.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, fault.New(fault.Empty, fmt.Errorf("there is no %s", transfer.At(dir)),
			"somebody removed it, as results --remove does, or the site has purged its storage")
	case err != nil:
		return nil, nil, fmt.Errorf("job directory %s: %w", transfer.At(dir), err)
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, nil, notGenuine(dir, errors.New("a symbolic link lies in the place of the job's directory"))
	}
	if signed, err = transfer.ReadFile(f.FS, path.Join(dir, jobdir.ManifestName), maxSmall); err == nil {
		sig, err = transfer.ReadFile(f.FS, path.Join(dir, jobdir.SignatureName), maxSmall)
	}
	if err != nil {
		class := fault.Integrity
		if !known && len(signed) == 0 && errors.Is(err, fs.ErrNotExist) {
			class = fault.Usage // it is another directory, as a rule
		}
		return nil, nil, fault.New(class, fmt.Errorf("what the job in %s was cannot be read: %w", transfer.At(dir), err),
			"name the directory that job-prep made for the job, sealbatch-RUN")
	}
	return signed, sig, nil
}

// place returns where the directory that a manifest is for really lies, and fails unless dir is it: another job's
// manifest, however genuine, says nothing of what lies in dir. What a user names is held to its own name, since
// whoever writes the storage can have a link lead from there to another job of the same user's.
func (f Finder) place(dir string, m manifest.Manifest) (real string, err error) {
	name := path.Base(m.JobDir)
	if path.Base(dir) != name || jobdir.Path(path.Dir(m.JobDir), m.Run) != m.JobDir {
		return "", notGenuine(dir, fmt.Errorf("the manifest there is that of the job in %s", transfer.At(m.JobDir)))
	}
	made, err := f.FS.RealPath(path.Dir(m.JobDir))
	if err != nil {
		return "", fmt.Errorf("%s: %w", transfer.At(m.JobDir), err)
	}
	given, err := f.FS.RealPath(path.Dir(dir))
	if err != nil {
		return "", fmt.Errorf("%s: %w", transfer.At(dir), err)
	}
	if given != made || !path.IsAbs(made) {
		return "", notGenuine(dir, fmt.Errorf("the manifest there is that of the job in %s", transfer.At(m.JobDir)))
	}
	return path.Join(made, name), nil
}

// ask returns what the key service knows of a manifest; nil if nothing.
func (f Finder) ask(ctx context.Context, digest manifest.Digest) (*keyapi.ManifestEntry, error) {
	m, err := f.Keys.Manifest(ctx, digest)
	if errors.Is(err, keyclient.ErrNotFound) {
		return nil, nil
	}
	return &m, err
}

func (f Finder) record(m manifest.Manifest, digest manifest.Digest, real string) submission.Record {
	rec := submission.Record{
		Run: m.Run, Manifest: digest, JobDir: m.JobDir, RealDir: real, LogFile: path.Join(m.JobDir, jobdir.LogName),
		Address: f.Address, Service: m.Service, Tier: m.Tier, Attest: m.Attest.Type, Nodes: m.Nodes,
		MinNodes: m.MinNodes, Submitted: m.Created, Found: true,
	}
	for _, v := range m.Volumes {
		rec.Volumes = append(rec.Volumes, v.VolumeID)
	}
	return rec
}

// maxTried bounds the nodes whose files are read to learn a job's number.
const maxTried = 64

// jobIn returns the number of the job whose nodes left papers that hold, "" if none did. A manifest is given keys
// for one job only, so that they all say the same.
func jobIn(fsys transfer.FS, rec submission.Record) string {
	names, err := nodeNames(fsys, rec)
	if err != nil {
		return "" // Fetch says it
	}
	for _, name := range names[:min(len(names), maxTried)] {
		files, err := jobdir.ReadFiles(func(file string) ([]byte, error) {
			return transfer.ReadFile(fsys, jobdir.NodePath(rec.JobDir, name, file), maxSmall)
		})
		if err != nil {
			continue
		}
		if v, err := jobdir.Check(rec.Expected(), name, files); err == nil {
			return fmt.Sprint(v.Statement.Job.ID)
		}
	}
	return ""
}
