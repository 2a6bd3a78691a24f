package publish

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/sealbatch/sealbatch/identity"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/keyapi"
	"github.com/sealbatch/sealbatch/manifest"
	"github.com/sealbatch/sealbatch/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// publish brings the sealed file to the site and makes it known, in Run's
// order. Each step finds out whether it was done before.
func (p *publishing) publish(ctx context.Context) error {
	remote := p.r.remotePath()
	there, err := p.ship(ctx, remote)
	if err != nil {
		return fmt.Errorf("ship %s: %w", filepath.Base(p.r.SealedPath), err)
	}
	if err := p.deposit(ctx); err != nil {
		return fmt.Errorf("deposit the key: %w", away(err, "the sealed file has arrived; when the key service answers, "+p.r.goOn()))
	}
	if !there {
		err := p.over(ctx, nil, func(fsys transfer.FS) error { return fsys.Rename(p.partial(), remote) })
		// A rename whose answer was lost is not there to be done again.
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && p.arrived(p.FS, remote)) {
			return fmt.Errorf("name the sealed file: %w", err)
		}
	}
	if err := p.announce(ctx, remote+InfoSuffix); err != nil {
		return fmt.Errorf("write the info file: %w", err)
	}
	return nil
}

// partial is the remote name of the file until it is whole. No other volume
// has the same, so that two uploads at once do not mix.
func (p *publishing) partial() string {
	return p.r.remotePath() + "." + p.s.ID.String()[:12] + transfer.PartialSuffix
}

// arrived tells whether the file at remote is this very volume. It got its
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
	err = p.over(ctx, nil, func(fsys transfer.FS) error {
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
	segments := make([][sha256.Size]byte, len(p.s.Segments))
	for i, s := range p.s.Segments {
		segments[i] = s
	}
	w, local, err := transfer.OpenWhole(p.r.SealedPath, volume.SegmentSize, segments)
	if err != nil {
		return false, err
	}
	defer local.Close()
	bar := p.bar("uploading " + filepath.Base(p.r.SealedPath))
	bar.SetTotal(p.s.Size)
	var most, done int64
	w.Progress = func(n int64) { done = n; bar.Set(n) }
	moved := func() bool {
		forward := done > most
		most = max(most, done)
		return forward
	}
	err = p.over(ctx, moved, func(fsys transfer.FS) error { return w.Send(ctx, fsys, p.partial(), SealedMode) })
	if err != nil {
		bar.Abandon()
		if errors.Is(err, transfer.ErrConnect) {
			err = ui.Fail(ui.ExitCode(err), err, fmt.Sprintf("%s of %s have arrived; %s", ui.Size(max(most, done)), ui.Size(p.s.Size), p.r.goOn()))
		}
		return false, err
	}
	bar.Finish()
	return false, nil
}

// Reconnecting: how often without anything having moved, and how long to wait.
const (
	maxReconnects = 6
	firstWait     = time.Second // unless Deps say otherwise
	longestWait   = 30 * time.Second
)

// over does a step on the site, and again over a new connection when the old
// one broke. Where moved reports that something got across, it counts anew.
func (p *publishing) over(ctx context.Context, moved func() bool, step func(transfer.FS) error) error {
	err := step(p.FS)
	for try := 0; err != nil && errors.Is(err, transfer.ErrConnect) && p.Reconnect != nil && ctx.Err() == nil; try++ {
		if moved != nil && moved() {
			try = 0
		}
		if try >= maxReconnects {
			return err
		}
		wait := min(cmp.Or(p.FirstWait, firstWait)<<try, longestWait)
		p.Log.Warn("the connection broke; trying again", "in", wait, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		fsys, dialErr := p.Reconnect(ctx)
		if dialErr != nil {
			err = dialErr
			continue
		}
		p.FS = fsys
		err = step(p.FS)
	}
	return err
}

func (p *publishing) deposit(ctx context.Context) error {
	policy, err := json.Marshal(p.r.Policy)
	if err != nil {
		return err
	}
	key := p.s.Key.Bytes()
	defer clear(key)
	_, err = p.Keys.PutSecret(ctx, p.s.ID.String(), keyapi.Secret{
		Name: filepath.Base(p.r.SealedPath), Kind: string(p.r.Kind), Digest: p.s.Digest.String(),
		Size: p.s.Size, Key: key, Policy: policy,
	})
	return err
}

// announce writes signature and info file, the info file last.
func (p *publishing) announce(ctx context.Context, remote string) error {
	b, err := p.r.info(p.s).Encode()
	if err != nil {
		return err
	}
	sig, err := identity.SignSSH(p.Signer, manifest.NamespaceInfo, b)
	if err != nil {
		return err
	}
	return p.over(ctx, nil, func(fsys transfer.FS) error {
		if err := transfer.PutFile(ctx, fsys, remote+SigSuffix, sig, SealedMode); err != nil {
			return err
		}
		return transfer.PutFile(ctx, fsys, remote, b, SealedMode)
	})
}

func (p *publishing) bar(label string) *ui.Progress {
	if p.Progress == nil {
		return nil
	}
	return p.Progress(label, 0)
}
