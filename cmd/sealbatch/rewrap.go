package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/output"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/volume"
)

func runRewrap(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch rewrap", `Change who can open a sealed volume, without sealing its data anew; or, with --job, a job's results,
of which nothing changes at the site: their keys are kept on this machine, where sealbatch results finds them.`, "FILE", `
sealbatch rewrap genomes.sealed -i ~/.ssh/id_ed25519 -r ~/.ssh/id_ed25519.pub -r age1...
sealbatch rewrap --job 4711 -i ~/.ssh/id_ed25519.old -r ~/.ssh/id_ed25519.pub`)
	var id, info, job string
	var cf clientFlags
	var recipients []string
	var yes bool
	identityFlag(f, &id)
	f.Strings(&recipients, "who can open it from now on: all of them, yourself included;\n"+
		"age1..., ssh-ed25519 ..., ssh-rsa ..., or a file of them",
		[]string{"r", "recipient"}, ui.Required)
	f.String(&info, "the volume's signed info file, on this machine: it gets the new checksum and is signed anew",
		[]string{"info"})
	f.String(&job, "instead of a FILE: a job (as for sealbatch results), whose results are to open to the recipients", []string{"job"})
	f.Bool(&yes, "do not ask, if you are not among them", []string{"y", "yes"}, ui.Whole)
	f.String(&cf.config, "configuration file, for --info and --job (default: $SEALBATCH_CONFIG, else ~/.config/sealbatch/client.conf)",
		[]string{"config"})
	if err := a.parse(f, args); err != nil {
		return err
	}
	rcpts, _, err := parseRecipients(a, recipients)
	if err != nil {
		return err
	}
	if job != "" {
		if len(f.Args()) > 0 || info != "" {
			return usageError("sealbatch rewrap --job takes neither a FILE nor --info", "give them apart")
		}
		return rewrapJob(ctx, a, cf, job, id, rcpts, yes)
	}
	path, err := oneArg(f, "FILE")
	if err != nil {
		return err
	}
	return rewrapFile(ctx, a, cf, path, id, info, rcpts, yes)
}

func rewrapFile(ctx context.Context, a *app, cf clientFlags, path, id, info string, rcpts []age.Recipient, yes bool) error {
	f, err := openSealed(path)
	if err != nil {
		return fmt.Errorf("rewrap %s: %w", path, err)
	}
	f.Close()
	ids, err := identities(a, id)
	if err != nil {
		return err
	}
	var r *reinfo
	if info != "" {
		if r, err = readReinfo(ctx, a, cf, info, path); err != nil {
			return err
		}
	}
	if !yes {
		key, err := unwrapFile(path, ids)
		if err != nil {
			return fmt.Errorf("rewrap %s: %w", path, err)
		}
		key.Wipe()
	}
	if err := a.confirmWithout(ctx, yes, path, ids, rcpts); err != nil {
		return err
	}
	others := otherNames(path)
	volumeID, digest, err := volume.Rewrap(ctx, path, ids, rcpts)
	if err != nil {
		return fmt.Errorf("rewrap %s: %w", path, err)
	}
	fmt.Fprintf(a.stdout, "%s %s\n", volumeID, digest)
	if others > 0 {
		fmt.Fprintf(a.stderr, "note: the file has %d other names (hard links): under them it is as it was\n", others)
	}
	const kept = "whoever could open the volume before may have kept a copy"
	if r == nil {
		fmt.Fprintln(a.stderr, "note: the file's checksum is another one now; an info file of it has to be signed anew, see --info;", kept)
		return nil
	}
	if err := r.write(ctx, path); err != nil {
		return fmt.Errorf("info file %s: %w", info, err)
	}
	fmt.Fprintf(a.stderr, "note: %s has the new checksum and is signed anew: put the volume, the info file and its "+
		"%s in the place of the old ones (%s); %s\n",
		info, publish.SigSuffix, text.Printable(r.info.PathAtRest), kept)
	return nil
}

// confirmWithout asks before a volume is wrapped to recipients of whom none is the
// user: nobody here could open it, or bring the user back.
func (a *app) confirmWithout(ctx context.Context, yes bool, what string, ids []age.Identity, rcpts []age.Recipient) error {
	if yes {
		return nil
	}
	var probe bytes.Buffer
	w, err := age.Encrypt(&probe, rcpts...)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return fault.New(fault.Usage, fmt.Errorf("recipients: %w", err), "")
	}
	if home, err := identities(a, ""); err == nil {
		ids = append(slices.Clone(ids), home...)
	}
	_, err = age.Decrypt(&probe, ids...)
	if !errors.Is(err, age.ErrIncorrectIdentity) {
		return err // nil: the user is among them
	}
	return a.confirm(ctx, false, fmt.Sprintf("Neither the identity that opens %s now nor your own SSH key is among the %d recipients: "+
		"you could not open it any more.\n", what, len(rcpts)), "add yourself with -r; --yes does without")
}

// otherNames returns how many hard links a file has besides path.
func otherNames(path string) uint64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return uint64(st.Sys().(*syscall.Stat_t).Nlink) - 1
}

// reinfo is an info file that is to describe the rewrapped volume.
type reinfo struct {
	path   string
	info   manifest.Info
	signer ssh.Signer
}

// readReinfo reads an info file of the user's own. The volume has to be the very
// file that it describes, every byte: the new signature must not vouch for what
// somebody else made of it.
func readReinfo(ctx context.Context, a *app, cf clientFlags, path, sealed string) (*reinfo, error) {
	c, err := loadClient(ctx, a, cf)
	if err != nil {
		return nil, err
	}
	b, err := fsx.ReadFile(path, maxSmallFile)
	if err != nil {
		return nil, fault.New(fault.Usage, err, "--info names the info file on this machine, with its signature beside it")
	}
	sig, err := fsx.ReadFile(path+publish.SigSuffix, maxSmallFile)
	if err != nil {
		return nil, fault.New(fault.Usage, err, "fetch the signature, too")
	}
	info, bad := manifest.ParseInfo(b)
	if err := c.checkOwnInfo(ctx, b, sig, info.Created); err != nil || bad != nil {
		return nil, fmt.Errorf("info file %s: %w", path, cmp.Or(err, bad))
	}
	sum, err := fileChecksum(ctx, sealed)
	if err != nil {
		return nil, err
	}
	if info.Checksum != sum.String() {
		return nil, fault.New(fault.Integrity, fmt.Errorf("%s is not the file that %s describes: its checksum is %s", sealed, path, sum),
			"fetch both anew, or seal the data anew")
	}
	return &reinfo{path, info, c.signer}, nil
}

// checkOwnInfo fails unless an info file is signed by one of the account's keys.
func (c *client) checkOwnInfo(ctx context.Context, info, sig []byte, made time.Time) error {
	key, own, err := c.infoSigner(ctx, info, sig, made)
	if err != nil || own {
		return err
	}
	return fault.New(fault.Integrity, fmt.Errorf("it is signed by %s, which is none of your account's keys that count now", key),
		"only its owner can sign it anew: for a key that was yours, sealbatch policy renew does, where it lies at the site")
}

// infoSigner returns the fingerprint of the key that signed an info file, and whether
// it is one of the account's.
func (c *client) infoSigner(ctx context.Context, info, sig []byte, made time.Time) (key string, own bool, err error) {
	trust, err := c.trust(ctx)
	if err != nil {
		return "", false, err
	}
	k, err := sshid.VerifySSH(manifest.NamespaceInfo, info, sig)
	if err != nil {
		return "", false, fault.New(fault.Integrity, err, "the info file or its signature was altered, or they are of two versions: "+
			"take both from where they are whole; the same data-prep or container-prep command writes them anew")
	}
	own, err = trust.IsOwn(k, manifest.NamespaceInfo, time.Now(), made)
	return sshid.Fingerprint(k), own, err
}

// write puts the checksum of the rewrapped volume into the info file, the
// signature first.
func (r *reinfo) write(ctx context.Context, sealed string) error {
	sum, err := fileChecksum(ctx, sealed)
	if err != nil {
		return err
	}
	r.info.Checksum = sum.String()
	b, err := r.info.Encode()
	if err != nil {
		return err
	}
	sig, err := sshid.SignSSH(r.signer, manifest.NamespaceInfo, b)
	if err != nil {
		return err
	}
	if err := output.Overwrite(r.path+publish.SigSuffix, sig, publish.SealedMode); err != nil {
		return err
	}
	return output.Overwrite(r.path, b, publish.SealedMode)
}

func fileChecksum(ctx context.Context, path string) (volume.Digest, error) {
	f, err := openSealed(path)
	if err != nil {
		return volume.Digest{}, err
	}
	defer f.Close()
	return volume.ReadChecksum(ctx, f)
}
