// Package publish is what data-prep and container-prep share: seal an input,
// ship the sealed volume, deposit its key with the policy, and sign the info
// file that tells others about it.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// InfoSuffix and SigSuffix are added to a sealed file's name, as HPCS does.
const (
	InfoSuffix = ".info.yaml"
	SigSuffix  = ".sig"
)

// maxName leaves room for the longest ending in a file name of 255 bytes.
const maxName = 255 - len(InfoSuffix+SigSuffix+"."+transfer.PartialSuffix) - shortID

// SealedMode is the mode of sealed volumes and info files on the site: they
// are ciphertext, and others than their owner may run on them.
const SealedMode = 0o640

// Request says what to publish.
type Request struct {
	Target
	Input Input
	Kind  manifest.Kind
	Image *manifest.Image // of which image Input is; nil for a dataset
	// Hash, if not nil, reads Input and returns the digest that Image lacks. It is not asked where the input is
	// known to be what was published before.
	Hash func(ctx context.Context) (manifest.Digest, error)
}

// Target says where a sealed volume goes and who may open it.
type Target struct {
	Name       string // the directory below /sd-container/encrypted
	SealedPath string // local path of the sealed volume
	DirAtRest  string // where it goes on the site, absolute
	Policy     manifest.Policy
	Force      bool            // replaces whatever file has SealedPath, but those in Reads
	Reads      []string        // files that the run reads besides Input: keys, configuration
	Recipients []age.Recipient // who can open the volume without the key service
	Readers    []string        // the recipients as text, by which another run's are recognised
	Expiry     string          // the policy's expiry as it was asked for, by which another run's is recognised
	ServiceURL string
	// Checksum compares the input with what is published byte by byte, times left out,
	// instead of by its fingerprint.
	Checksum bool
}

// Keys is what the key service does for a volume's owner.
type Keys interface {
	Secrets(ctx context.Context) iter.Seq2[keyapi.SecretEntry, error]
	GetSecret(ctx context.Context, volume string) (keyapi.SecretInfo, error)
	PutSecret(ctx context.Context, volume string, s keyapi.Secret) (keyapi.SecretInfo, error)
}

// Deps are the parties that take part. FS, Keys and Signer are needed.
type Deps struct {
	FS     transfer.FS
	Keys   Keys
	Signer ssh.Signer
	Site   string // how the site is called
	// Reconnect reaches the site again when the connection broke; nil gives up.
	Reconnect func(ctx context.Context) (transfer.FS, error)
	// FirstWait is how long to wait before that; it doubles each time. 0 is a second.
	FirstWait time.Duration
	// State is a local directory that keeps a checkpoint of a sealed file until it
	// is published, so that a later run can go on with it, and then what the same again
	// is recognised by; "" for none.
	State string
	// Waiting names the jobs that are known to wait for a volume's key; nil if none can be. With an error it names
	// those that are known all the same.
	Waiting func(ctx context.Context, volumeID string) (Waiting, error)
	// Confirm asks whether that is to happen which was said; an error ends Run. It is asked before
	// jobs that wait lose their key, and nil goes on.
	Confirm func(ctx context.Context, what string) error
	// Identities open the user's own sealed files, for that.
	Identities func() ([]age.Identity, error)
	Log        *slog.Logger
	Progress   progress.Starter
}

// Waiting are jobs that wait for a volume's key, in words.
type Waiting struct {
	Here []string // that were submitted from here
	Else string   // the others that the key service knows, in one sentence; "" for none
}

// Published is what was made.
type Published struct {
	Info     manifest.Info
	InfoPath string // on the site
	Already  bool   // it was there; nothing was sealed or shipped
}

// Run publishes one volume. The order is what keeps a reader from being misled,
// wherever it breaks off: the sealed file under a name of its own and whole, the
// key and policy (from here on the older version is superseded), the file's
// final name, the signature, and the info file.
//
// Running it again goes on if the input has not changed since, and else seals afresh
// under a new key. What was published whole, and is what would be published now, stays.
// What a new version supersedes is said before anything is sealed.
func Run(ctx context.Context, d Deps, r Request) (Published, error) {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if err := r.sealed(true).Check(); err != nil && !errors.Is(err, fs.ErrNotExist) { // it need not be made
		return Published{}, err
	}
	if err := r.check(); err != nil {
		return Published{}, fault.New(fault.Usage, err, "")
	}
	input, err := scan(ctx, r.Input)
	if err != nil {
		return Published{}, interrupted(ctx, err, hintAfresh)
	}
	if r.Checksum && !input.resumable() {
		return Published{}, fault.New(fault.Usage, fmt.Errorf("%s can be read only once, so that it cannot be compared", input),
			"leave --checksum out: it becomes a new version")
	}
	p := &publishing{Deps: d, r: r, input: input}
	if err := p.reachable(ctx); err != nil {
		return Published{}, interrupted(ctx, err, hintAfresh)
	}
	unlock, err := p.lock()
	if err != nil {
		return Published{}, err
	}
	defer unlock()
	if err := p.identify(ctx); err != nil {
		return Published{}, interrupted(ctx, err, hintAfresh)
	}
	taken, why := p.takeUp(), ""
	if !taken {
		out, there, news, err := p.again(ctx)
		if err != nil || there {
			return out, interrupted(ctx, err, hintAfresh)
		}
		why = news
	}
	if err := r.sealed(true).Check(); err != nil { // now it is
		return Published{}, err
	}
	if err := p.replaceable(ctx); err != nil {
		return Published{}, interrupted(ctx, err, hintAfresh)
	}
	if err := p.sayWhatEnds(ctx, why); err != nil {
		return Published{}, interrupted(ctx, err, hintAfresh)
	}
	if !taken {
		if err := p.sealNew(ctx); err != nil {
			return Published{}, interrupted(ctx, err, hintAfresh)
		}
	}
	return p.finish(ctx)
}

// finish publishes the sealed file.
func (p *publishing) finish(ctx context.Context) (Published, error) {
	defer p.s.Key.Wipe()
	info := p.r.info(p.s)
	if err := p.publish(ctx, info); err != nil {
		return Published{}, interrupted(ctx, err, p.input.hintGoOn())
	}
	if err := p.writeRecord(info); err != nil {
		p.Log.Warn("the same command again will seal again: what was published cannot be remembered", "error", err)
	}
	p.removeCheckpoint()
	p.removeLocal()
	return Published{Info: info, InfoPath: p.r.pathAtRest() + InfoSuffix}, nil
}

const (
	hintAfresh = "nothing was published; the same command begins again"
	hintStill  = "nothing was published: wait until nobody writes to the input any more, and run the same command again"
	hintGoOn   = "the same command goes on where this one stopped"
)

// interrupted puts what to do next to a Ctrl-C.
func interrupted(ctx context.Context, err error, hint string) error {
	if ctx.Err() != nil {
		return fault.New(fault.Interrupted, ctx.Err(), hint)
	}
	return err
}

// publishing is one volume on its way.
type publishing struct {
	Deps
	r       Request
	beside  bool // SealedPath is where the sealed file is to lie at the site
	input   scanned
	current *keyapi.SecretEntry // the version that is published; nil if there is none
	awaited bool                // jobs are known to wait for it
	s       volume.Sealed
	sent    *upload    // nil until it has begun
	mu      sync.Mutex // for Deps.FS, which is replaced when a connection breaks
}

func (r Request) pathAtRest() string { return path.Join(r.DirAtRest, r.volumeName()) }

// volumeName is the sealed file's name: versions have the same.
func (r Request) volumeName() string { return filepath.Base(r.SealedPath) }

func (r Request) info(s volume.Sealed) manifest.Info {
	return manifest.Info{
		PathAtRest: r.pathAtRest(), SecretPath: keyapi.SecretPath(s.ID.String()),
		Checksum: s.Checksum.String(), Format: manifest.InfoFormat, Kind: r.Kind, Name: r.Name,
		VolumeID: s.ID.String(), Digest: manifest.Digest(s.Digest), Size: s.Size,
		Service: r.ServiceURL, Created: time.Now().UTC().Truncate(time.Second), Policy: r.Policy,
		Image: r.Image,
	}
}

// check reports early what the info file would be refused for at the end,
// when the key is deposited and an older version superseded.
func (r Request) check() error {
	if n := len(filepath.Base(r.SealedPath)); n > maxName {
		return fmt.Errorf("the sealed file's name has %d bytes; %d are possible, since endings such as %s are added", n, maxName, InfoSuffix)
	}
	return r.foreseen().Validate()
}

// foreseen returns the info file. Digests and size, which only reading and sealing give, are made up.
func (r Request) foreseen() manifest.Info {
	if r.Hash != nil {
		image := *r.Image
		image.Digest = manifest.Digest{1}
		r.Image = &image
	}
	return r.info(volume.Sealed{Digest: volume.Digest{1}, Checksum: volume.Digest{1}, Size: 1})
}

// reachable reports early, before hours of sealing, why the end cannot be reached.
func (p *publishing) reachable(ctx context.Context) error {
	if err := p.findCurrent(ctx); err != nil {
		return fmt.Errorf("key service: %w", away(err, "nothing was sealed; is [hpcs-server] url right, and does the service run?"))
	}
	notes, err := transfer.CheckAncestors(p.FS, p.r.DirAtRest)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.WithHint(fmt.Errorf("directory at rest: %w", err),
			"look for a slip in the path, or make it at the site: mkdir -p "+shellwords.QuoteArgs(p.r.DirAtRest))
	}
	if err != nil {
		return fmt.Errorf("directory at rest: %w", err)
	}
	for _, n := range notes {
		p.Log.Info(n)
	}
	return p.place()
}

// room fails if a sealed file of the input's size cannot have space in dir, which people are shown so.
func (p *publishing) room(fsys transfer.FS, dir, where, shown string) error {
	free, err := fsys.Free(dir)
	if err != nil || free < 0 || free >= p.input.usage.SealedBytes-tolerance {
		return nil // a guess at the most: writing will tell
	}
	return fault.New(fault.Other, fmt.Errorf("no space %s: the sealed file takes about %s, and %s has %s left",
		where, text.Size(p.input.usage.SealedBytes), shown, text.Size(free)),
		"make space, or name another directory")
}

// tolerance is how much too high an estimate of a small volume is.
const tolerance = 4 << 20

// away puts a hint to a key service that cannot be reached, and none to one that refuses.
func away(err error, hint string) error {
	if errors.Is(err, keyclient.ErrUnavailable) || errors.Is(err, keyclient.ErrTooMany) {
		return fault.WithHint(err, hint)
	}
	return err
}

// seal makes the sealed file, which is uploaded meanwhile. That its input
// changed meanwhile is an error, even where each file by itself was whole when it
// was read.
func (p *publishing) seal(ctx context.Context) (volume.Sealed, error) {
	s, err := p.make(ctx)
	if err == nil {
		p.s = s
		err = p.writeCheckpoint() // before the rest is sent: from here on, a run that breaks off can be gone on with
	}
	if err != nil {
		p.sent.abandon(p)
		p.sent = nil
		s.Key.Wipe()
		return s, err
	}
	p.sent.finish(s)
	return s, nil
}

func (p *publishing) make(ctx context.Context) (volume.Sealed, error) {
	dir := filepath.Dir(p.r.SealedPath)
	if err := p.room(transfer.Local{}, dir, "on this machine", dir); err != nil {
		return volume.Sealed{}, err
	}
	bar := p.Progress.Start("sealing "+p.r.Name, 0, 0)
	begin := time.Now()
	s, err := volume.SealFile(ctx, p.local(), p.input.Input, volume.SealOptions{
		Recipients: p.r.Recipients,
		Progress:   bar.Update,
		Begun:      func(id volume.ID, made io.ReaderAt) { p.sendMeanwhile(ctx, id, made) },
		Written:    func(final, size int64) { p.sent.grow(final, size) },
		Replace:    p.r.Force || p.isOurs(),
		Confirm: func(s volume.Sealed) error {
			p.remember(s.ID)
			return p.input.unchanged(ctx, begin)
		},
	})
	bar.End(err == nil)
	if err != nil {
		return s, p.whySeal(ctx, err)
	}
	return s, nil
}

// whySeal returns the error of a failed seal with the next step.
func (p *publishing) whySeal(ctx context.Context, err error) error {
	hint := ""
	switch {
	case fault.ClassOf(err) == fault.Usage: // the output
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.EDQUOT):
		hint = "your quota for " + filepath.Dir(p.r.SealedPath) + " is used up: make space, or let --data-path name another file system"
	case errors.Is(err, syscall.ENOSPC):
		hint = "make space in " + filepath.Dir(p.r.SealedPath) + ", or let --data-path name another file system"
	case errors.Is(err, volume.ErrChanged), errors.Is(err, fs.ErrNotExist):
		hint = hintStill
	}
	return fault.New(fault.Other, fmt.Errorf("seal %s: %w", p.input, err), hint)
}
