package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/output"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/internal/userdirs"
	"github.com/sealbatch/sealbatch/volume"
)

func runOpen(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch open",
		"Open a sealed volume, or a node's directory whose outputs were indexed, into a new directory.", "FILE", `
sealbatch open genomes.sealed -o genomes -i ~/.ssh/id_ed25519`)
	var dir string
	var how opening
	f.String(&dir, "directory to write; it must be new or empty", []string{"o", "output"}, ui.Required)
	how.add(f)
	if err := a.parse(f, args); err != nil {
		return err
	}
	if err := (output.Dir{Path: dir, Inputs: f.Args()}).Check(); err != nil {
		return fmt.Errorf("open into a directory: %w", err)
	}
	r, err := openVolume(a, f, how)
	if err != nil {
		return err
	}
	defer r.Close()
	p := ui.NewProgress(a.stderr, "opening "+filepath.Base(f.Args()[0]), 0, 0)
	defer p.End(false)
	var kept unkept
	if err := r.Extract(ctx, dir, kept.options(volume.ExtractOptions{Progress: p.Update})); err != nil {
		err = fmt.Errorf("open %s: %w", f.Args()[0], err)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = fault.New(fault.Other, err, "make room there, or name a directory elsewhere with -o; nothing is left of it")
		}
		return err
	}
	p.End(true)
	fmt.Fprintln(a.stdout, dir)
	return kept.report(a.stderr, "")
}

func identityFlag(f *ui.Flags, dst *string) {
	f.String(dst, "age identity or SSH private key that opens the volume (default: ~/.ssh/id_ed25519, or id_rsa)", []string{"i", "identity"})
}

// opening says how a volume is opened.
type opening struct {
	identity string
	maxIndex int64
}

func (o *opening) add(f *ui.Flags) {
	identityFlag(f, &o.identity)
	maxIndexFlag(f, &o.maxIndex)
}

func maxIndexFlag(f *ui.Flags, dst *int64) {
	f.Size(dst, "how large the list of names may be, which is held in memory: for volumes with millions of files,\n"+
		"in bytes, or with K, M, G or T (2G) (default: 256M, and 200 times what it takes in the file)", []string{"max-index"})
}

// identities reads an identity file, one's own SSH key if none is named.
func identities(a *app, id string) ([]age.Identity, error) {
	if id == "" {
		if id = userdirs.Key(); id == "" {
			return nil, fault.New(fault.Usage, errNoSSHDir, "name a key with -i")
		}
	}
	ids, err := volume.ParseIdentityFile(id, func() ([]byte, error) { return a.passphrase("Passphrase of " + id + ": ") }, a.plugins())
	return ids, fault.New(fault.Usage, err, orHint(err, "name the right one with -i"))
}

// openVolume opens the command's FILE with an identity.
func openVolume(a *app, f *ui.Flags, how opening) (*volume.Reader, error) {
	path, err := oneArg(f, "FILE")
	if err != nil {
		return nil, err
	}
	r, err := openWith(a, path, how)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func openWith(a *app, path string, how opening) (*volume.Reader, error) {
	ids, err := identities(a, how.identity)
	if err != nil {
		return nil, err
	}
	r, err := openFileOrDir(path, ids, volume.OpenOptions{MaxIndex: how.maxIndex})
	if errors.Is(err, volume.ErrLimit) {
		return nil, fault.New(fault.Usage, err, "if you trust its origin, a larger --max-index lets it take more memory")
	}
	return r, err
}

func openFileOrDir(path string, ids []age.Identity, opt volume.OpenOptions) (*volume.Reader, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return openNodeDir(path, ids, opt)
	}
	key, err := unwrapFile(path, ids)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return opt.OpenFile(path, key)
}

// openNodeDir opens what a job left that indexed its outputs instead of sealing
// them: a directory with keys.age, the cipher directory and its index.
func openNodeDir(dir string, ids []age.Identity, opt volume.OpenOptions) (*volume.Reader, error) {
	index, err := fsx.ReadRegular(filepath.Join(dir, jobdir.IndexName), jobdir.MaxIndex)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(fault.Usage, fmt.Errorf("it is a directory without %s", jobdir.IndexName),
			"name a sealed volume, or a node's directory whose outputs were indexed; sealbatch results opens what a job left otherwise")
	}
	if err != nil {
		return nil, err
	}
	keys, err := fsx.OpenRegular(filepath.Join(dir, jobdir.KeysName))
	if err != nil {
		return nil, err
	}
	defer keys.Close()
	id, key, err := volume.ReadKey(keys, ids...)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return opt.OpenIndexed(filepath.Join(dir, jobdir.CipherDirName), index, id, key)
}

// openSealed opens a sealed volume for reading; a named pipe does not block it.
func openSealed(path string) (*os.File, error) {
	f, err := fsx.OpenRegular(path)
	if errors.Is(err, fsx.ErrNotRegular) {
		return nil, fault.New(fault.Usage, fsx.ErrNotRegular,
			"name a sealed volume's file; what comes from a pipe has to be written to one first")
	}
	return f, err
}

func unwrapFile(path string, ids []age.Identity) (volume.Key, error) {
	f, err := openSealed(path)
	if err != nil {
		return volume.Key{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return volume.Key{}, err
	}
	return volume.UnwrapKey(f, st.Size(), ids...)
}

// errNoSSHDir says that HOME is not set, and that there is no /tmp/.ssh.
var errNoSSHDir = errors.New("there is no SSH directory to look for keys in: HOME is not set")
