package publish

import (
	"context"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// Resign signs the info file remote, as it lies on the site, with another key of its
// owner's. check says whether it may; it gets the file and the signature of before.
func Resign(ctx context.Context, fsys transfer.FS, remote string, signer ssh.Signer, check func(info, sig []byte) error) error {
	info, err := transfer.ReadFile(fsys, remote, maxInfo)
	if err != nil {
		return err
	}
	sig, err := transfer.ReadFile(fsys, remote+SigSuffix, maxInfo)
	if err != nil {
		return err
	}
	if err := check(info, sig); err != nil {
		return fmt.Errorf("info file %s: %w", transfer.At(remote), err)
	}
	i, err := manifest.ParseInfo(info)
	if err != nil {
		return fmt.Errorf("info file %s: %w", transfer.At(remote), err)
	}
	if sig, err = sshid.SignSSH(signer, manifest.NamespaceInfo, info); err != nil {
		return err
	}
	return (&announcement{id: i.VolumeID, info: info, sig: sig}).put(ctx, fsys, remote)
}
