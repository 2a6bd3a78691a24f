// Package publish is what data-prep and container-prep share: seal an input,
// ship the sealed volume, deposit its key with the policy, and sign the info
// file that tells others about it.
package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path"
	"path/filepath"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/identity"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/keyapi"
	"github.com/sealbatch/sealbatch/keyclient"
	"github.com/sealbatch/sealbatch/manifest"
	"github.com/sealbatch/sealbatch/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// InfoSuffix and SigSuffix are added to a sealed file's name, as HPCS does.
const (
	InfoSuffix = ".info.yaml"
	SigSuffix  = ".sig"
)

// SealedMode is the mode of sealed volumes and info files on the site: they
// are ciphertext, and others than their owner may run on them.
const SealedMode = 0o640

// Request says what to publish.
type Request struct {
	Input      string // local directory or file
	FileName   string // inside the volume, for a single file; "" keeps its own
	Kind       manifest.Kind
	Name       string // the directory below /sd-container/encrypted
	SealedPath string // local path of the sealed volume
	RemoteDir  string // absolute, on the computing site
	Policy     manifest.Policy
	Recipients []age.Recipient // who can open the volume without the key service
	ServiceURL string
}

// Deps are the parties that take part. All are needed but Log and Progress.
type Deps struct {
	FS       transfer.FS
	Keys     *keyclient.Client
	Signer   ssh.Signer
	Log      *slog.Logger
	Progress func(label string, total int64) *ui.Progress
}

// Published tells what was made.
type Published struct {
	Info       manifest.Info
	InfoPath   string // on the computing site
	SealedPath string // local
}

// Run publishes one volume. Nothing appears under a final name, here or on the
// site, before it is whole; the info file comes last. Running it again seals
// afresh under a new key, and the new version supersedes the old one.
func Run(ctx context.Context, d Deps, r Request) (Published, error) {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if err := r.check(); err != nil {
		return Published{}, ui.Fail(ui.CodeUsage, err, "")
	}
	if err := d.reachable(ctx, r); err != nil {
		return Published{}, err
	}
	sealed, err := d.seal(ctx, r)
	if err != nil {
		return Published{}, fmt.Errorf("seal %s: %w", r.Input, err)
	}
	defer sealed.Key.Wipe()
	remote := r.remotePath()
	if err := d.ship(ctx, r, remote, sealed); err != nil {
		return Published{}, fmt.Errorf("ship %s: %w", filepath.Base(r.SealedPath), err)
	}
	if err := d.deposit(ctx, r, sealed); err != nil {
		return Published{}, fmt.Errorf("deposit the key: %w", err)
	}
	info := r.info(sealed)
	if err := d.announce(ctx, info, remote+InfoSuffix); err != nil {
		return Published{}, fmt.Errorf("write the info file: %w", err)
	}
	return Published{Info: info, InfoPath: remote + InfoSuffix, SealedPath: r.SealedPath}, nil
}

func (r Request) remotePath() string { return path.Join(r.RemoteDir, filepath.Base(r.SealedPath)) }

func (r Request) info(s volume.Sealed) manifest.Info {
	return manifest.Info{
		PathAtRest: r.remotePath(), SecretPath: keyapi.SecretPath(s.ID.String()),
		Checksum: s.Checksum.String(), Format: manifest.InfoFormat, Kind: r.Kind, Name: r.Name,
		VolumeID: s.ID.String(), Digest: manifest.Digest(s.Digest), Size: s.Size,
		Service: r.ServiceURL, Created: time.Now().UTC().Truncate(time.Second), Policy: r.Policy,
	}
}

// check finds out early what the info file would be refused for at the end,
// when the key is deposited and an older version superseded. Digests and size,
// which only sealing gives, are made up.
func (r Request) check() error {
	return r.info(volume.Sealed{Digest: volume.Digest{1}, Checksum: volume.Digest{1}, Size: 1}).Validate()
}

// reachable finds out early, before hours of sealing, whether the end can be reached.
func (d Deps) reachable(ctx context.Context, r Request) error {
	if _, err := d.Keys.ListSecrets(ctx); err != nil {
		return fmt.Errorf("key service: %w", err)
	}
	notes, err := transfer.CheckAncestors(d.FS, r.RemoteDir)
	if err != nil {
		return fmt.Errorf("directory at rest: %w", err)
	}
	for _, n := range notes {
		d.Log.Info(n)
	}
	return nil
}

func (d Deps) seal(ctx context.Context, r Request) (volume.Sealed, error) {
	p := d.progress("sealing " + r.Name)
	s, err := volume.SealFile(ctx, r.SealedPath, r.source(), volume.SealOptions{
		Recipients: r.Recipients,
		Progress:   func(done, total int64) { p.SetTotal(total); p.Set(done) },
	})
	if err != nil {
		p.Abandon()
		return s, err
	}
	p.Finish()
	return s, nil
}

// source is the input, a single file under the name that it is to have.
func (r Request) source() volume.Source {
	src := volume.DirSource(r.Input)
	if r.FileName == "" {
		return src
	}
	return renamed{src, r.FileName}
}

// renamed gives the one file of a Source another name.
type renamed struct {
	volume.Source
	name string
}

// Walk implements volume.Source.
func (r renamed) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	return r.Source.Walk(ctx, func(e volume.Entry) (uint32, error) {
		if e.Name != "" {
			e.Name = r.name
		}
		return emit(e)
	})
}

func (d Deps) ship(ctx context.Context, r Request, remote string, s volume.Sealed) error {
	p := d.progress("uploading " + filepath.Base(r.SealedPath))
	p.SetTotal(s.Size)
	_, err := transfer.UploadFile(ctx, d.FS, r.SealedPath, remote, transfer.UploadOptions{Mode: SealedMode, Progress: p.Set, ReplacePartial: true})
	if err != nil {
		p.Abandon()
		return err
	}
	p.Finish()
	return nil
}

func (d Deps) deposit(ctx context.Context, r Request, s volume.Sealed) error {
	policy, err := json.Marshal(r.Policy)
	if err != nil {
		return err
	}
	key := s.Key.Bytes()
	defer clear(key)
	_, err = d.Keys.PutSecret(ctx, s.ID.String(), keyapi.Secret{
		Name: filepath.Base(r.SealedPath), Kind: string(r.Kind), Digest: s.Digest.String(),
		Size: s.Size, Key: key, Policy: policy,
	})
	return err
}

// announce writes signature and info file, the info file last.
func (d Deps) announce(ctx context.Context, info manifest.Info, remote string) error {
	b, err := info.Encode()
	if err != nil {
		return err
	}
	sig, err := identity.SignSSH(d.Signer, manifest.NamespaceInfo, b)
	if err != nil {
		return err
	}
	if err := transfer.PutFile(ctx, d.FS, remote+SigSuffix, sig, SealedMode); err != nil {
		return err
	}
	return transfer.PutFile(ctx, d.FS, remote, b, SealedMode)
}

func (d Deps) progress(label string) *ui.Progress {
	if d.Progress == nil {
		return nil
	}
	return d.Progress(label, 0)
}
