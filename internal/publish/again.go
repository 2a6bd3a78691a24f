package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// standing is the volume that was published, where it is what would be published now.
type standing struct {
	record
	info   manifest.Info
	secret keyapi.SecretInfo
}

// again finds out whether what is asked for is published. If it is, it makes sure of
// the info file and returns true. If it lies on the site no more, but here, p.s becomes
// that, to be shipped again. Else why says what is new; it is empty the first time.
func (p *publishing) again(ctx context.Context) (out Published, there bool, why string, err error) {
	r, err := p.readRecord()
	if err != nil {
		p.Log.Warn("what was published before cannot be compared", "error", err)
		return out, false, "", nil
	}
	if r == nil {
		return out, false, "", nil
	}
	st := &standing{record: *r}
	if why, err = p.differs(ctx, st); err != nil || why != "" {
		return out, false, why, err
	}
	if there, err = p.lies(ctx, st); err != nil {
		return out, false, "", fmt.Errorf("look for %s: %w", transfer.At(p.r.pathAtRest()), err)
	}
	if why := p.elsewhere(ctx, st, there); why != "" {
		return out, false, why, nil
	}
	if !there {
		why, err := p.takeUpPublished(st)
		return out, false, why, err
	}
	if p.r.Checksum {
		if why, err = p.sameContent(ctx, st); err != nil || why != "" {
			return out, false, why, err
		}
	}
	if err := p.keepPolicy(st); err != nil {
		return out, false, "", err
	}
	p.keepStatement(st)
	st.info.Policy, st.info.Image = st.secret.Policy, p.r.Image // which may have been called, or checked, otherwise
	if err := p.ensureInfo(ctx, st.info); err != nil {
		return out, false, "", fmt.Errorf("write the info file: %w", err)
	}
	if st.renew(p) {
		if err := p.saveRecord(st.record); err != nil {
			p.Log.Warn("what is there cannot be remembered as it was named now", "error", err)
		}
	}
	return Published{Info: st.info, InfoPath: p.r.pathAtRest() + InfoSuffix, Already: true}, true, "", nil
}

// renew has the record say what p says in other words, or with other times, of the same, and reports whether that
// is new. The policy stays the one that was asked for.
func (st *standing) renew(p *publishing) bool {
	was := st.record
	st.Input, st.Expiry = p.input.fingerprint, p.r.Expiry
	if i, err := manifest.ParseInfo([]byte(st.Info)); err == nil {
		i.Image = p.r.Image
		if b, err := i.Encode(); err == nil {
			st.Info = string(b)
		}
	}
	return st.Input != was.Input || st.Expiry != was.Expiry || st.Info != was.Info
}

// keepStatement has p go on saying by which key the published image, which is p's, was found to be signed, if nobody
// asked for a signature this time.
func (p *publishing) keepStatement(st *standing) {
	was := st.info.Image
	if p.r.Image == nil || was == nil || was.Digest != p.r.Image.Digest || !p.r.Image.SignedBy.IsZero() {
		return
	}
	image := *p.r.Image
	image.SignedBy = was.SignedBy
	p.r.Image = &image
}

// identify fills in the image's digest where that takes reading it, and it is not what was published before.
func (p *publishing) identify(ctx context.Context) error {
	if p.r.Hash == nil {
		return nil
	}
	image := *p.r.Image
	if r, err := p.readRecord(); err == nil && r != nil && p.input.resumable() && r.Input == p.input.fingerprint {
		if i, err := manifest.ParseInfo([]byte(r.Info)); err == nil && i.Image != nil && i.Image.Of == image.Of {
			image.Digest = i.Image.Digest
		}
	}
	if image.Digest.IsZero() {
		var err error
		if image.Digest, err = p.r.Hash(ctx); err != nil {
			return fmt.Errorf("input %s: %w", p.input, err)
		}
	}
	p.Log.Info("image", "taken", p.input.String(), "digest", image.Digest, "of", image.Of, "platform", image.Platform)
	p.r.Image = &image
	return nil
}

// differs says why the published volume is not what would be published now; "" if it
// is. The input is read only by those who ask for that.
func (p *publishing) differs(ctx context.Context, st *standing) (why string, err error) {
	if st.info, err = manifest.ParseInfo([]byte(st.Info)); err != nil {
		return "what is remembered of it is damaged", nil
	}
	switch {
	case st.Request != p.r.request():
		return "it was sealed to other recipients", nil
	case st.info.Name != p.r.Name:
		return "it was called " + st.info.Name, nil
	case !p.input.resumable():
		return fmt.Sprintf("%s cannot be compared with what it was", p.input), nil
	case st.Input != p.input.fingerprint && !p.r.Checksum:
		return "the input has changed, or times in it have (--checksum compares contents)", nil
	}
	st.secret, err = p.Keys.GetSecret(ctx, st.VolumeID)
	switch {
	case errors.Is(err, keyclient.ErrNotFound):
		return "the key service does not know it any more", nil
	case err != nil:
		return "", fmt.Errorf("key service: %w", err)
	case st.secret.Revoked:
		return "it was revoked", nil
	case st.secret.SupersededBy != "":
		return "it was superseded", nil
	case p.r.Image != nil && st.secret.Image != p.r.Image.Digest:
		return "it is another image", nil
	case st.secret.Digest != st.info.Digest:
		return "the key service has another volume of its id", nil
	}
	return "", nil
}

// takeUpPublished sets p.s to the published volume's local file, since it is gone from the site;
// if that is not possible, it says what is new.
func (p *publishing) takeUpPublished(st *standing) (why string, err error) {
	why = "it does not lie on the site any more"
	if err := p.resume(st.checkpoint); err != nil {
		return why, nil
	}
	if err := p.keepPolicy(st); err != nil {
		p.s.Key.Wipe()
		return "", err
	}
	p.keepStatement(st)
	p.Log.Info(why+": shipping the same volume again", "file", p.local())
	return "", nil
}

// elsewhere says where the published volume lies, if that is not where it would be
// published now: a login node of another name is the same site if the volume is there.
func (p *publishing) elsewhere(ctx context.Context, st *standing, there bool) (why string) {
	if !there && st.Site != p.Site {
		return "it was published on " + cmp.Or(st.Site, "this machine")
	}
	dir := path.Dir(st.info.PathAtRest)
	_ = p.withReconnect(ctx, nil, func(fsys transfer.FS) error {
		was, err := fsys.RealPath(dir)
		is, ierr := fsys.RealPath(p.r.DirAtRest)
		if err != nil || was != is {
			why = "it was published in " + transfer.At(dir)
		}
		return cmp.Or(err, ierr)
	})
	return why
}

// lies reports whether the published volume is what lies at rest, by its length, id and
// digest. A volume that was rewrapped since has another length and checksum, which our
// own info file there says.
func (p *publishing) lies(ctx context.Context, st *standing) (there bool, err error) {
	err = p.withReconnect(ctx, nil, func(fsys transfer.FS) error {
		if b, ours := p.ourInfo(fsys, p.r.pathAtRest()+InfoSuffix); ours {
			i, err := manifest.ParseInfo(b)
			if err == nil && i.VolumeID == st.info.VolumeID && i.Digest == st.info.Digest {
				st.info.Size, st.info.Checksum = i.Size, i.Checksum
			}
		}
		var err error
		there, err = liesAt(fsys, p.r.pathAtRest(), st.info)
		return err
	})
	return there, err
}

func liesAt(fsys transfer.FS, remote string, want manifest.Info) (bool, error) {
	f, err := fsys.Open(remote)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, transfer.ErrNotRegular) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	id, digest, size, err := idOf(f)
	if errors.Is(err, errNoVolume) {
		return false, nil
	}
	return err == nil && size == want.Size && id.String() == want.VolumeID && manifest.Digest(digest) == want.Digest, err
}

// errNoVolume: what lies there is no sealed volume.
var errNoVolume = errors.New("not a sealed volume")

// idOf returns which volume f is, and how long. Errors of the connection are as they
// are; others are errNoVolume.
func idOf(f transfer.File) (id volume.ID, d volume.Digest, size int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return id, d, 0, err
	}
	id, d, err = volume.ReadDigest(f, st.Size())
	if err != nil && !errors.Is(err, transfer.ErrConnect) {
		err = fmt.Errorf("%w: %w", errNoVolume, err)
	}
	return id, d, st.Size(), err
}

// ensureInfo writes the info file unless it stands there, signed by us and with the
// policy in force.
func (p *publishing) ensureInfo(ctx context.Context, info manifest.Info) error {
	remote := p.r.pathAtRest() + InfoSuffix
	return p.withReconnect(ctx, nil, func(fsys transfer.FS) error {
		if p.infoStands(fsys, remote, info) {
			return nil
		}
		a, err := p.sign(info)
		if err != nil {
			return err
		}
		p.Log.Info("writing the info file, which is missing or not up to date", "file", transfer.At(remote))
		return a.put(ctx, fsys, remote)
	})
}

func (p *publishing) infoStands(fsys transfer.FS, remote string, want manifest.Info) bool {
	b, ours := p.ourInfo(fsys, remote)
	encoded, err := want.Encode()
	return ours && err == nil && string(encoded) == string(b)
}

// ourInfo returns the info file at remote if we have signed it.
func (p *publishing) ourInfo(fsys transfer.FS, remote string) ([]byte, bool) {
	b, err := transfer.ReadFile(fsys, remote, maxInfo)
	if err != nil {
		return nil, false
	}
	sig, err := transfer.ReadFile(fsys, remote+SigSuffix, maxInfo)
	if err != nil {
		return nil, false
	}
	key, err := sshid.VerifySSH(manifest.NamespaceInfo, b, sig)
	return b, err == nil && sshid.Fingerprint(key) == sshid.Fingerprint(p.Signer.PublicKey())
}

// maxInfo bounds an info file and its signature, in bytes.
const maxInfo = 1 << 20
