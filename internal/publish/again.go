package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
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
		return out, false, "", fmt.Errorf("look for %s: %w", p.r.pathAtRest(), err)
	}
	if !there {
		return out, false, p.takeUpPublished(st), nil
	}
	if p.r.Checksum {
		if why, err = p.sameContent(ctx, st); err != nil || why != "" {
			return out, false, why, err
		}
	}
	if err := p.keepPolicy(st); err != nil {
		return out, false, "", err
	}
	st.info.Policy = st.secret.Policy
	if err := p.ensureInfo(ctx, st.info); err != nil {
		return out, false, "", fmt.Errorf("write the info file: %w", err)
	}
	if st.Input != p.input.fingerprint { // its content is the same
		st.Input = p.input.fingerprint
		if err := p.saveRecord(st.record); err != nil {
			p.Log.Warn("the input as it is now cannot be remembered", "error", err)
		}
	}
	return Published{Info: st.info, InfoPath: p.r.pathAtRest() + InfoSuffix, Already: true}, true, "", nil
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
	case st.info.Name != p.r.Name || st.info.Kind != p.r.Kind:
		return fmt.Sprintf("it was the %s %s", st.info.Kind, st.info.Name), nil
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
	case st.secret.Digest != st.info.Digest:
		return "the key service has another volume of its id", nil
	}
	return "", nil
}

// keepPolicy refuses a policy that is not the volume's: setting one needs no sealing.
func (p *publishing) keepPolicy(st *standing) error {
	expiry := p.r.Policy.Expires
	news := func(q manifest.Policy) []string {
		want := p.r.Policy
		if p.r.Expiry == st.Expiry || expiry.Equal(q.Expires) {
			want.Expires = q.Expires // what counts from now counted from then
		}
		return changes(q, want)
	}
	inForce := st.secret.Policy
	other := news(inForce)
	refuse := func(what, hint string) error {
		return fault.New(fault.Usage, fmt.Errorf("%s is already there, unchanged, and %s; nothing was sealed, shipped or set",
			p.r.pathAtRest(), what), hint)
	}
	set := "sealbatch policy set " + st.VolumeID + " "
	switch {
	case st.secret.PolicyVoid:
		return refuse("its policy counts no more",
			"sealbatch policy renew "+st.VolumeID+" sets it again, which takes no sealing")
	case len(other) > 0 && len(news(st.info.Policy)) > 0:
		return refuse("the policy that is asked for is not the one in force: "+strings.Join(other, "; "),
			set+"changes a policy and takes no sealing; the same command again then renews the info file")
	case !time.Now().Before(inForce.Expires):
		return refuse("its policy expired on "+inForce.Expires.Format(time.DateOnly),
			set+"--expires SPAN renews it, which takes no sealing")
	case len(other) > 0:
		p.Log.Info("its policy was set anew since, which stays", "volume", st.VolumeID)
	}
	p.r.Policy = inForce
	return nil
}

// changes says how policies differ, in whatever order their lists are.
func changes(was, is manifest.Policy) []string {
	encode := func(p manifest.Policy) []byte {
		for _, l := range []*[]string{&p.Users, &p.Groups, &p.Nodes, &p.Clusters, &p.Accounts, &p.Partitions} {
			*l = slices.Compact(slices.Sorted(slices.Values(*l)))
		}
		p.Expires = p.Expires.UTC()
		b, _ := json.Marshal(p) // a Policy can be marshalled
		return b
	}
	out, err := manifest.PolicyChanges(encode(was), encode(is))
	if err != nil {
		return []string{err.Error()}
	}
	return out
}

// takeUpPublished sets p.s to the published volume's local file, since it is gone from the site;
// if that is not possible, it says what is new.
func (p *publishing) takeUpPublished(st *standing) (why string) {
	why = "it does not lie on the site any more"
	if err := p.resume(st.checkpoint); err != nil {
		return why
	}
	if err := p.keepPolicy(st); err != nil {
		p.Log.Info("the policy that is asked for is set anew")
	}
	p.Log.Info(why+": shipping the same volume again", "file", p.r.SealedPath)
	return ""
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
	if errors.Is(err, fs.ErrNotExist) {
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
		p.Log.Info("writing the info file, which is missing or not up to date", "file", path.Base(remote))
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
