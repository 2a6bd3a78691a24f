// Package jobprep turns info files and a command line into a running job: it
// checks what the info files say, pins everything in a signed manifest,
// registers it with the key service, lays out the job's directory, submits the
// batch script and follows the job.
package jobprep

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// Options say what to run. Paths are on the site unless said otherwise.
type Options struct {
	ApplicationInfo string   // info file of the image
	DataInfo        []string // info files of the datasets, in order
	InputScripts    string   // directory of verification scripts; "" for none
	OutputScripts   string   // the same, after the application
	Workdir         string   // the job's directory is made below it
	Args            []string // the application's
	Flags           []string // the container runtime's
	Runtime         string   // "" for the first found on the node
	Network         string   // manifest.NetworkNone, or "" for what the volumes' owners demand
	Mounts          string   // mount mode on the nodes, as sandbox.ParseMode takes it; "" is auto
	Tier            manifest.Tier
	Attest          string        // type of evidence, of Deps.Evidence
	Valid           time.Duration // how long the manifest may wait for its job
	Recipients      []string      // who can open the results
	Cluster         string        // where the key service knows several
	LogName         string        // what the link to the job's log in Workdir is called; "" for HPCS's lumi-sd_USER
	HPCSKeys        []string      // local files of the keys of what HPCS prepared
	// ByHand says that somebody else submits the script, which lies on the site: it
	// has the nodes' credentials in it then, if there are any.
	ByHand bool
	// Force submits a job even where it is known that it will not run as things are.
	Force bool
	// Identity is the local file that opens the results, remembered for
	// the results command; it is not read here.
	Identity string
	// Programs are the local paths of sealbatch and gocryptfs.
	Programs []string
	// Script holds the Slurm options; its Dir, Pin, Log, Input and Node are set here, and SealTime if it is 0.
	Script slurm.Script
}

// Keys is what the key service does for a submitter.
type Keys interface {
	Service(ctx context.Context) (keyapi.Service, error)
	RegisterManifest(ctx context.Context, signed, signature, private []byte) (keyapi.ManifestInfo, error)
	RegisterJob(ctx context.Context, signed, signature, private []byte, e keyapi.Expect) (keyapi.ManifestInfo, error)
	evidence.Keys
	Deposits
}

// Deposits takes a volume's key in, and destroys it.
type Deposits interface {
	PutSecret(ctx context.Context, volume string, s keyapi.Secret) (keyapi.SecretInfo, error)
	Delete(ctx context.Context, volume string) error
}

// Deps are the parties that take part.
type Deps struct {
	FS       transfer.FS
	Slurm    slurm.Commands
	Keys     Keys
	Evidence evidence.Types
	Signer   ssh.Signer
	Trust    sshid.Trust
	Store    submission.Store
	Service  ServiceConf
	Address  string // of the login node, for the record
	Log      *slog.Logger
	Progress progress.Starter
	// Followed says that Follow will tell how a job stands that was submitted.
	Followed bool
	// Reconnect reaches the site again while a job is followed; nil gives up.
	Reconnect func(ctx context.Context) (transfer.FS, slurm.Runner, error)
}

// ServiceConf is what the configuration says of the key service.
type ServiceConf struct {
	URL string
	CA  string // PEM
}

// Prepared is a job that lies ready on the site.
type Prepared struct {
	Record     submission.Record
	Script     []byte // for sbatch: a secret, if there are Credentials
	ScriptPath string // on the site
	// Credentials says what the nodes' secrets in Script are, such as "one-time
	// tokens"; empty if there are none.
	Credentials string
	// Keep leaves a job in Slurm that will not start as it was submitted.
	Keep bool
	// Until is when the job's keys cease to be released to it, as far as that is known; zero for never.
	Until  time.Time
	unlock func()
}

// Close lets other processes work on the run. It may be called again.
func (p Prepared) Close() {
	if p.unlock != nil {
		p.unlock()
	}
}

func volumeIDs(refs []manifest.VolumeRef) (ids []string) {
	for _, r := range refs {
		ids = append(ids, r.VolumeID)
	}
	return ids
}

// NewRun returns a random name for a submission.
func NewRun() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// Prepare checks, pins, registers and lays out a job; nothing is submitted.
// If it fails, what it made is removed and nothing was released; a registered
// manifest that no job presents expires by itself. If it is killed, its record
// says what there is to remove (Continue).
func Prepare(ctx context.Context, d Deps, o Options) (_ Prepared, err error) {
	p, err := plan(ctx, d, o)
	if err != nil {
		return Prepared{}, err
	}
	m, err := p.manifest()
	if err != nil {
		return Prepared{}, err
	}
	signed, err := p.sign(m)
	if err != nil {
		return Prepared{}, err
	}
	script, err := p.render(signed.digest)
	if err != nil {
		return Prepared{}, fault.New(fault.Usage, err, "")
	}
	rec := submission.Record{
		Run: m.Run, Manifest: signed.digest, Name: o.Script.JobName, JobDir: m.JobDir, RealDir: p.realDir(), LogFile: p.logFile(),
		Address: d.Address, Service: m.Service, Tier: m.Tier, Attest: m.Attest.Type, Nodes: m.Nodes, MinNodes: m.MinNodes, Identity: o.Identity,
		Volumes: volumeIDs(m.Volumes), Deposited: slices.Sorted(maps.Keys(p.hpcs)),
		Submitted: time.Now().UTC(), Stage: submission.Preparing,
	}
	unlock, err := d.Store.Lock(rec.Run)
	if err != nil {
		return Prepared{}, err
	}
	if err := d.Store.Save(rec); err != nil {
		unlock()
		return Prepared{}, err
	}
	defer func() {
		if err != nil {
			err = d.withdraw(ctx, rec, err)
			unlock()
		}
	}()
	if err := p.deposit(ctx, m); err != nil {
		return Prepared{}, err
	}
	if err := p.register(ctx, signed); err != nil {
		return Prepared{}, fmt.Errorf("register the job: %w", err)
	}
	whole, err := d.complete(ctx, script, rec)
	if err != nil {
		return Prepared{}, err
	}
	if o.ByHand {
		script = whole
	}
	if err := p.layOut(ctx, signed, script); err != nil {
		return Prepared{}, fmt.Errorf("lay out the job's directory: %w", err)
	}
	rec.Stage, rec.Script = submission.Ready, manifest.DigestOf(script)
	if err := d.Store.Save(rec); err != nil {
		return Prepared{}, err
	}
	p.linkLog(ctx)
	return Prepared{Record: rec, Script: whole, ScriptPath: p.at(jobdir.ScriptName), Credentials: p.credentials(),
		Keep: o.Force, Until: p.until(m), unlock: sync.OnceFunc(unlock)}, nil
}
