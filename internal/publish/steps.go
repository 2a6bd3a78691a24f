package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/retry"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// publish brings the sealed file to the site and makes it known, in Run's
// order. Each step finds out whether it was done before.
func (p *publishing) publish(ctx context.Context, info manifest.Info) error {
	remote := p.r.pathAtRest()
	a, err := p.sign(info)
	if err != nil {
		return fmt.Errorf("sign the info file: %w", err)
	}
	staged := make(chan struct{}) // while the sealed file is on its way
	go func(fsys transfer.FS) {
		defer close(staged)
		a.stage(ctx, fsys, remote+InfoSuffix)
	}(p.site())
	there, err := p.ship(ctx, remote)
	<-staged
	if err != nil {
		err = fmt.Errorf("ship %s: %w", filepath.Base(p.r.SealedPath), err)
	} else if err = p.deposit(ctx); err != nil {
		err = fmt.Errorf("deposit the key: %w", away(err, "the sealed file has arrived; when the key service answers, "+p.input.hintGoOn()))
	}
	if err != nil {
		a.unstage(p.site(), remote+InfoSuffix)
		return err
	}
	if !there {
		err := p.nameSealed(ctx, a, remote)
		// A rename whose answer was lost is not there to be done again.
		if err != nil && !p.arrived(p.site(), remote) {
			return fmt.Errorf("name the sealed file: %w", err)
		}
	}
	err = p.withReconnect(ctx, nil, func(fsys transfer.FS) error { return a.put(ctx, fsys, remote+InfoSuffix) })
	if err != nil {
		return fmt.Errorf("write the info file: %w", err)
	}
	return nil
}

// nameSealed gives the sealed file its final name. A pinned version that has it stays beside it.
func (p *publishing) nameSealed(ctx context.Context, a *announcement, remote string) (err error) {
	if a.kept, err = p.keptName(ctx, remote); err != nil {
		return err
	}
	if a.kept != "" {
		p.Log.Info("the older version stays on the site, too: remove it when no job needs it any more", "file", transfer.At(a.kept))
	}
	return p.withReconnect(ctx, nil, func(fsys transfer.FS) error { return a.name(ctx, fsys, p.partial(), remote, remote) })
}

// shortID is how much of a volume's id is in the names of its unfinished files.
const shortID = 12

// partial is the remote name of the file until it is whole. No other volume
// has the same, so that two uploads at once do not mix.
func (p *publishing) partial() string {
	return staging(p.r.pathAtRest(), p.s.ID.String()) + transfer.PartialSuffix
}

// arrived reports whether the file at remote is this very volume. It got its
// name only once it was whole.
func (p *publishing) arrived(fsys transfer.FS, remote string) bool {
	f, err := fsys.Open(remote)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() != p.s.Size {
		return false
	}
	id, digest, err := volume.ReadDigest(f, st.Size())
	return err == nil && id == p.s.ID && digest == p.s.Digest
}

// ship uploads the sealed file to its partial name, unless it is there under
// its final one already.
func (p *publishing) ship(ctx context.Context, remote string) (there bool, err error) {
	if p.sent == nil {
		err = p.withReconnect(ctx, nil, func(fsys transfer.FS) error {
			_, err := fsys.Lstat(remote)
			there = err == nil && p.arrived(fsys, remote)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil || there {
			return there, err
		}
		if err := p.sendSealed(ctx); err != nil {
			return false, err
		}
	}
	err = p.sent.wait(p)
	if errors.Is(err, transfer.ErrConnect) {
		err = fault.WithHint(err, fmt.Sprintf("%s of %s have arrived; %s",
			text.Size(p.sent.most.Load()), text.Size(p.s.Size), p.input.hintGoOn()))
	}
	return false, err
}

// Reconnecting: how often without anything having moved, and how long to wait.
const (
	maxReconnects = 6
	firstWait     = time.Second // unless Deps say otherwise
	longestWait   = 30 * time.Second
)

// over does a step on the site, and again over a new connection when the old
// one broke. Where moved reports that something got across, it counts anew.
func (p *publishing) withReconnect(ctx context.Context, moved func() bool, step func(transfer.FS) error) error {
	err := step(p.site())
	pauses := retry.Policy{
		First: cmp.Or(p.FirstWait, firstWait), Most: longestWait, Tries: maxReconnects + 1,
		Waiting: func(wait time.Duration, err error) {
			p.Log.Warn("the connection broke; trying again", "in", wait, "error", err)
		},
	}.Begin()
	// That the host's name is unknown is not final here: it was known before, and
	// is known again when a VPN is back.
	for errors.Is(err, transfer.ErrConnect) && p.Reconnect != nil && ctx.Err() == nil {
		if moved != nil && moved() {
			pauses.Reset()
		}
		if perr := pauses.Pause(ctx, err); perr != nil {
			return cmp.Or(ctx.Err(), perr)
		}
		fsys, dialErr := p.Reconnect(ctx)
		if dialErr != nil {
			err = dialErr
			continue
		}
		p.moveTo(fsys)
		err = step(fsys)
	}
	return err
}

// site is the file system there, over the connection that is the newest.
func (p *publishing) site() transfer.FS {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.FS
}

func (p *publishing) moveTo(fsys transfer.FS) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.FS = fsys
}

func (p *publishing) deposit(ctx context.Context) error {
	key := p.s.Key.Bytes()
	defer clear(key)
	s := keyapi.Secret{
		Name: p.r.Name, File: p.r.volumeName(), Kind: p.r.Kind, Digest: manifest.Digest(p.s.Digest),
		Size: p.s.Size, Key: key, Policy: p.r.Policy,
	}
	if p.r.Image != nil {
		s.Image = p.r.Image.Digest
	}
	_, err := p.Keys.PutSecret(ctx, p.s.ID.String(), s)
	return err
}

// announcement is the info file and its signature.
type announcement struct {
	id        string // the volume's
	info, sig []byte
	staged    bool   // both lie on the site under their partial names
	kept      string // name on the site that the sealed file before gets; "" for none
}

func (p *publishing) sign(info manifest.Info) (*announcement, error) {
	b, err := info.Encode()
	if err != nil {
		return nil, err
	}
	sig, err := sshid.SignSSH(p.Signer, manifest.NamespaceInfo, b)
	return &announcement{id: info.VolumeID, info: b, sig: sig}, err
}

// staging is a file's name on the site until it gets its own, without the ending: no other volume's is called so.
func staging(final, id string) string { return final + "." + id[:shortID] }

// stage brings both to the site, so that they only need their names later. That
// it did not work does no harm: put does it all.
func (a *announcement) stage(ctx context.Context, fsys transfer.FS, remote string) {
	sig, info := make(chan error, 1), make(chan error, 1)
	go func() { sig <- transfer.StageFile(ctx, fsys, staging(remote+SigSuffix, a.id), a.sig, SealedMode) }()
	go func() { info <- transfer.StageFile(ctx, fsys, staging(remote, a.id), a.info, SealedMode) }()
	a.staged = true
	if err := errors.Join(<-sig, <-info); err != nil {
		a.unstage(fsys, remote)
	}
}

// unstage removes what stage left.
func (a *announcement) unstage(fsys transfer.FS, remote string) {
	if a.staged {
		removeStaged(fsys, remote, a.id)
	}
	a.staged = false
}

// removeStaged removes the info file of a volume, and its signature, that have not got their names.
func removeStaged(fsys transfer.FS, info, id string) {
	_ = fsys.Remove(staging(info+SigSuffix, id) + transfer.PartialSuffix)
	_ = fsys.Remove(staging(info, id) + transfer.PartialSuffix)
}

// put gives both their final names, the info file last.
func (a *announcement) put(ctx context.Context, fsys transfer.FS, remote string) error {
	staged := a.staged
	a.staged = false // a second try begins afresh
	for _, f := range []struct {
		name string
		data []byte
	}{{remote + SigSuffix, a.sig}, {remote, a.info}} {
		partial := staging(f.name, a.id) + transfer.PartialSuffix
		err := fs.ErrNotExist
		if staged {
			err = a.name(ctx, fsys, partial, f.name, remote)
		}
		if errors.Is(err, fs.ErrNotExist) { // not staged, or gone since
			if err = transfer.StageFile(ctx, fsys, staging(f.name, a.id), f.data, SealedMode); err == nil {
				err = a.name(ctx, fsys, partial, f.name, remote)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
