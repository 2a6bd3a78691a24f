package publish

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// findCurrent looks for the version that is published now under the volume's name. It is
// the first call to the key service, and finds out whether one is enrolled there.
func (p *publishing) findCurrent(ctx context.Context) error {
	for s, err := range p.Keys.Secrets(ctx) {
		if err != nil {
			return err
		}
		if s.File == p.r.volumeName() && s.Kind == p.r.Kind && s.SupersededBy == "" {
			p.current = &s
		}
	}
	return nil
}

// sayWhatEnds tells, before anything is sealed or shipped, which version the new one
// supersedes, why there is a new one, and what waits for the old one; where something
// does, it asks.
func (p *publishing) sayWhatEnds(ctx context.Context, why string) error {
	old := p.current
	if old == nil || old.VolumeID == p.s.ID.String() || old.Revoked {
		return nil
	}
	args := []any{"name", old.Name, "volume", old.VolumeID, "published", old.Created.Local().Format(time.DateTime)}
	if why != "" {
		args = append(args, "why", why)
	}
	if old.PinVersion {
		p.Log.Warn("this is a new version; the one that is published stays open to jobs, as --pin-version says", args...)
		return nil
	}
	p.Log.Warn("this is a new version, which supersedes the one that is published: jobs that still wait for that one will not get its key",
		args...)
	return p.sayWhatWaits(ctx, *old)
}

func (p *publishing) sayWhatWaits(ctx context.Context, old keyapi.SecretEntry) error {
	keep := "sealbatch policy set " + old.VolumeID + " --pin-version"
	const first = "end this, and keep it open to them first: "
	if p.Waiting == nil {
		p.Log.Info("if some do, " + first + keep)
		return nil
	}
	jobs, err := p.Waiting(ctx, old.VolumeID)
	if err != nil {
		p.awaited = true // its file is kept, for all that is known
		p.Log.Warn("which jobs wait for it cannot be found out", "error", err)
	}
	known := len(jobs.Here) > 0 || jobs.Else != ""
	if !known && err == nil {
		p.Log.Info("no job waits for it, as far as this machine and the key service know; if one does, " + first + keep)
		return nil
	}
	if len(jobs.Here) > 0 {
		p.Log.Warn("waiting for the older version: " + strings.Join(jobs.Here, ", "))
	}
	if jobs.Else != "" {
		p.Log.Warn(jobs.Else)
	}
	p.Log.Info("hint: " + keep + " keeps it open to them, as long as they have not begun")
	if !known {
		return nil
	}
	p.awaited = true
	if p.Confirm == nil {
		return nil
	}
	return p.Confirm(ctx, "The older version is about to be superseded, so that these jobs do not get its key.\n")
}

// keptName returns under which name the sealed file at remote stays on the site when
// another gets its name: "" unless it is a version that is pinned, or may still be since
// jobs wait for it.
func (p *publishing) keptName(ctx context.Context, remote string) (string, error) {
	var kept string
	err := p.withReconnect(ctx, nil, func(fsys transfer.FS) error {
		f, err := fsys.Open(remote)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, transfer.ErrNotRegular) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		id, _, _, err := idOf(f)
		if errors.Is(err, transfer.ErrConnect) {
			return err
		}
		if err == nil && id != p.s.ID {
			kept = id.String()
		}
		return nil
	})
	if err != nil || kept == "" {
		return "", err
	}
	if p.awaited && p.current.VolumeID == kept {
		return manifest.KeptPath(remote, kept), nil
	}
	s, err := p.Keys.GetSecret(ctx, kept)
	if errors.Is(err, keyclient.ErrNotFound) || err == nil && (!s.Policy.PinVersion || s.Revoked) {
		return "", nil
	}
	return manifest.KeptPath(remote, kept), err
}
