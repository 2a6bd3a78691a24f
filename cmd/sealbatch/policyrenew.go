package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// renew has what rests on other keys of the user's rest on the present one: policies,
// which are set again as they are, and info files at the site. What was done is named
// on standard output.
func (c *client) renew(ctx context.Context, args []string, o policyOptions) error {
	if o.all == (len(args) > 0) {
		return usageError("sealbatch policy renew takes VOLUMEs and info files at the site, or --all for the policies of all your volumes",
			"sealbatch policy --help shows an example")
	}
	if o.all {
		return c.renewAll(ctx, o)
	}
	if slices.ContainsFunc(args, isInfoFile) {
		if err := c.connect(ctx); err != nil {
			return err
		}
		defer c.close()
	}
	for _, arg := range args {
		if isInfoFile(arg) {
			if err := c.renewInfo(ctx, arg, o); err != nil {
				return err
			}
			continue
		}
		s, err := c.findSecret(ctx, arg)
		if err != nil {
			return err
		}
		if err := c.renewPolicy(ctx, s, o); err != nil {
			return err
		}
	}
	return nil
}

// isInfoFile reports whether an argument is an info file at the site, not a volume.
func isInfoFile(arg string) bool {
	return path.IsAbs(arg) && strings.HasSuffix(arg, publish.InfoSuffix)
}

func (c *client) renewAll(ctx context.Context, o policyOptions) error {
	var asking, todo []keyapi.SecretEntry // those that are asked about come last
	for entry, err := range c.keys.Secrets(ctx) {
		switch {
		case err != nil:
			return err
		case entry.Revoked || c.rests(entry):
		case entry.PolicyVoid:
			asking = append(asking, entry)
		default:
			todo = append(todo, entry)
		}
	}
	for _, entry := range append(todo, asking...) {
		s, err := c.keys.GetSecret(ctx, entry.VolumeID)
		if err == nil {
			err = c.renewPolicy(ctx, s, o)
		}
		if err != nil {
			return fmt.Errorf("volume %s (%s): %w", entry.VolumeID, called(entry), err)
		}
	}
	return nil
}

// rests reports whether a volume's policy rests on the present key.
func (c *client) rests(s keyapi.SecretEntry) bool {
	return !s.PolicyVoid && s.PolicyKey == sshid.Fingerprint(c.signer.PublicKey())
}

// renewPolicy sets a policy again as it is.
func (c *client) renewPolicy(ctx context.Context, s keyapi.SecretInfo, o policyOptions) error {
	if s.Revoked {
		return revoked(s)
	}
	if c.rests(s.Entry()) {
		fmt.Fprintf(c.a.stderr, "%s (%s): its policy was set with this key already\n", s.VolumeID, called(s.Entry()))
		return nil
	}
	if err := c.confirmVoid(ctx, s, o.yes); err != nil {
		return err
	}
	if _, err := c.keys.ReplacePolicy(ctx, s.VolumeID, s.PolicyDigest, s.Policy); err != nil {
		return err
	}
	fmt.Fprintln(c.a.stdout, s.VolumeID)
	return nil
}

// renewInfo signs an info file at the site anew, and renews the policy of the volume
// that it describes.
func (c *client) renewInfo(ctx context.Context, file string, o policyOptions) error {
	var s keyapi.SecretInfo
	err := publish.Resign(ctx, c.fs, file, c.signer, func(b, sig []byte) (err error) {
		s, err = c.ownVolumeOf(ctx, b, sig, o.yes)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(c.a.stdout, file)
	return c.renewPolicy(ctx, s, o)
}

// ownVolumeOf returns the user's volume that an info file describes, and the key
// service knows as such. A signature by a key that is not the account's any more is
// asked about.
func (c *client) ownVolumeOf(ctx context.Context, b, sig []byte, yes bool) (s keyapi.SecretInfo, err error) {
	info, err := manifest.ParseInfo(b)
	if err != nil {
		return s, err
	}
	key, own, err := c.infoSigner(ctx, b, sig, info.Created)
	if err != nil {
		return s, err
	}
	s, err = c.keys.GetSecret(ctx, info.VolumeID)
	if errors.Is(err, keyclient.ErrNotFound) || err == nil && (s.Digest != info.Digest || s.Kind != info.Kind) {
		return s, fault.New(fault.Integrity, errors.New("it describes no volume of yours that the key service has"),
			"sealbatch policy list shows yours; an info file of somebody else's is signed by them")
	}
	if err != nil || own {
		return s, err
	}
	return s, c.a.confirm(ctx, yes, fmt.Sprintf("%s describes your volume %s (%s), to be mounted as %q. It is signed by %s, which is "+
		"none of your account's keys that count now.\n", text.Printable(transfer.At(info.PathAtRest)), s.VolumeID, called(s.Entry()), info.Name, key),
		"if that was a key of yours, --yes signs the file anew")
}
