package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/volume"
)

func runSeal(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch seal", `Seal a directory, a file, a tar archive's contents or several of them into one encrypted volume.
An INPUT of - is a tar archive on standard input.`, "INPUT...", `
sealbatch seal genomes/ -o genomes.sealed -r age1... -r ~/.ssh/colleague.pub
ssh archive cat genomes.tar.zst | sealbatch seal - -o genomes.sealed --exclude '*.log'`)
	var out, name string
	var in inputFlags
	var recipients []string
	f.String(&out, "the sealed volume to write", []string{"o", "output"}, ui.Required)
	f.Strings(&recipients, "who can open it: age1... (post-quantum: age1pq1...; of a plugin: age1NAME1...),\nssh-ed25519 ..., ssh-rsa ..., or a file of them (default: your own ~/.ssh/id_ed25519.pub)", []string{"r", "recipient"})
	in.add(f)
	f.Word(&name, "what standard input's file is called, with --as-file", []string{"name"})
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	if in.paths = f.Args(); len(in.paths) == 0 {
		_, err := oneArg(f, "INPUT")
		return err
	}
	input, err := in.input(a)
	if err != nil {
		return err
	}
	input.Spool = filepath.Dir(out)
	if input.FromStdin() {
		input.FileName = name
	}
	rcpts, err := parseRecipients(a, recipients)
	if err != nil {
		return err
	}
	s, err := sealFile(ctx, a, input, out, rcpts)
	if err != nil {
		return err
	}
	s.Key.Wipe()
	fmt.Fprintf(a.stdout, "%s %s\n", s.ID, s.Digest)
	return nil
}

func sealFile(ctx context.Context, a *app, input source.Input, out string, rcpts []age.Recipient) (volume.Sealed, error) {
	if err := input.Check(); errors.Is(err, source.ErrInput) {
		return volume.Sealed{}, fault.New(fault.Usage, err, "")
	}
	p := ui.NewProgress(a.stderr, "sealing "+filepath.Base(out), 0, 0)
	defer p.End(false)
	s, err := volume.SealFile(ctx, out, input, volume.SealOptions{Recipients: rcpts, Progress: p.Update})
	if err != nil {
		return s, fmt.Errorf("seal %s: %w", input, err)
	}
	p.End(true)
	return s, nil
}

func runOpen(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch open", "Open a sealed volume, or a node's directory whose outputs were indexed, into a new directory.", "FILE", `
sealbatch open genomes.sealed -o genomes -i ~/.ssh/id_ed25519`)
	var dir, id string
	f.String(&dir, "directory to write; it must be new or empty", []string{"o", "output"}, ui.Required)
	identityFlag(f, &id)
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	r, err := openVolume(a, f, id)
	if err != nil {
		return err
	}
	defer r.Close()
	p := ui.NewProgress(a.stderr, "opening "+filepath.Base(f.Args()[0]), 0, 0)
	defer p.End(false)
	if err := r.Extract(ctx, dir, volume.ExtractOptions{Progress: p.Update}); err != nil {
		return fmt.Errorf("open %s: %w", f.Args()[0], err)
	}
	p.End(true)
	fmt.Fprintln(a.stdout, dir)
	return nil
}

func runVerify(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch verify", "Read every byte of a sealed volume, or of a node's directory with an index, and check it.", "FILE", `
sealbatch verify genomes.sealed -i ~/.ssh/id_ed25519 --digest sha256:...`)
	var id, digest, checksum string
	identityFlag(f, &id)
	f.Word(&digest, "the volume digest that it must have, from a signed info file", []string{"digest"})
	f.Word(&checksum, "the checksum that the whole file must have, from a signed info file", []string{"checksum"})
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	wantDigest, err := optionalDigest(digest)
	if err != nil {
		return err
	}
	wantChecksum, err := optionalDigest(checksum)
	if err != nil {
		return err
	}
	r, err := openVolume(a, f, id)
	if err != nil {
		return err
	}
	defer r.Close()
	file := f.Args()[0]
	if digest != "" && r.Digest() != wantDigest {
		return fault.New(fault.Integrity, fmt.Errorf("%s: it is another version: its digest is %s", file, r.Digest()), "")
	}
	p := ui.NewProgress(a.stderr, "verifying "+filepath.Base(file), 0, r.Size())
	defer p.End(false)
	report, err := r.Verify(ctx, volume.VerifyOptions{Checksum: wantChecksum, Progress: p.Update})
	if err != nil {
		for _, d := range report.Damaged {
			fmt.Fprintf(a.stderr, "damaged: %s: %v\n", text.Printable(d.Path), d.Err)
		}
		return fmt.Errorf("verify %s: %w", file, err)
	}
	p.End(true)
	fmt.Fprintf(a.stdout, "%s: every byte is as it was sealed: %d entries, %s\n", file, r.Entries(), text.Size(report.PlainBytes))
	if report.Unread > 0 {
		fmt.Fprintf(a.stderr, "note: %d files have no digest in the index: an older version of the same file would pass too\n", report.Unread)
	}
	if digest == "" {
		fmt.Fprintln(a.stderr, "note: without --digest, an older version of the same volume would pass too")
	}
	return nil
}

// optionalDigest parses a flag's digest; "" gives the zero one.
func optionalDigest(s string) (volume.Digest, error) {
	if s == "" {
		return volume.Digest{}, nil
	}
	d, err := volume.ParseDigest(s)
	return d, fault.New(fault.Usage, err, "")
}

// inspection is what inspect --json prints. The fields below Digest need an identity.
type inspection struct {
	File    string        `json:"file"`
	ID      volume.ID     `json:"volume_id"`
	Digest  volume.Digest `json:"volume_digest"`
	Size    int64         `json:"size"`
	Entries *int          `json:"entries,omitempty"`
	Plain   *int64        `json:"plain_bytes,omitempty"`
	Tree    []treeEntry   `json:"tree,omitempty"`
}

type treeEntry struct {
	Path   string    `json:"path"`
	Type   string    `json:"type"`
	Mode   string    `json:"mode"`
	Size   int64     `json:"size"`
	Mtime  time.Time `json:"mtime"`
	Target string    `json:"target,omitempty"`
}

func runInspect(_ context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch inspect", "Show what a sealed volume is; with an identity, what it holds.", "FILE", `
sealbatch inspect genomes.sealed -i ~/.ssh/id_ed25519 --json`)
	var id string
	var asJSON bool
	f.String(&id, "age identity or SSH private key that opens the volume", []string{"i", "identity"})
	f.Bool(&asJSON, "print JSON", []string{"json"})
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	path, err := oneArg(f, "FILE")
	if err != nil {
		return err
	}
	in, err := inspect(a, path, id)
	if err != nil {
		return fmt.Errorf("inspect %s: %w", path, err)
	}
	if asJSON {
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		return e.Encode(in)
	}
	printInspection(a, in)
	return nil
}

func inspect(a *app, path, id string) (inspection, error) {
	f, err := os.Open(path)
	if err != nil {
		return inspection{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return inspection{}, err
	}
	in := inspection{File: path, Size: st.Size()}
	if !st.IsDir() {
		if in.ID, in.Digest, err = volume.ReadDigest(f, st.Size()); err != nil || id == "" {
			return in, err
		}
	}
	r, err := openWith(a, path, id)
	if err != nil {
		return in, err
	}
	defer r.Close()
	in.ID, in.Digest, in.Size = r.ID(), r.Digest(), r.Size()
	n, plain := r.Entries(), int64(0)
	in.Tree = walkTree(r, 0, "", &plain, map[uint32]bool{})
	in.Entries, in.Plain = &n, &plain
	return in, nil
}

// walkTree lists what lies below a directory, in order; plain sums the sizes
// of files, hard-linked ones once.
func walkTree(r *volume.Reader, dir uint32, prefix string, plain *int64, seen map[uint32]bool) []treeEntry {
	var out []treeEntry
	for _, d := range r.Dirents(dir) {
		at := r.Attr(d.Node)
		out = append(out, treeEntry{Path: prefix + d.Name, Type: at.Type.String(), Mode: fmt.Sprintf("%04o", at.Mode),
			Size: at.Size, Mtime: at.Mtime.UTC(), Target: r.Readlink(d.Node)})
		if at.Type == volume.File && !seen[d.Node] {
			seen[d.Node] = true
			*plain += at.Size
		}
		if at.Type == volume.Dir {
			out = append(out, walkTree(r, d.Node, prefix+d.Name+"/", plain, seen)...)
		}
	}
	return out
}

func printInspection(a *app, in inspection) {
	fmt.Fprintf(a.stdout, "volume   %s\ndigest   %s\nsize     %d (%s)\n", in.ID, in.Digest, in.Size, text.Size(in.Size))
	if in.Entries == nil {
		return
	}
	fmt.Fprintf(a.stdout, "entries  %d\nholds    %d (%s)\n\n", *in.Entries, *in.Plain, text.Size(*in.Plain))
	for _, e := range in.Tree {
		name := text.Printable(e.Path)
		if e.Target != "" {
			name += " -> " + text.Printable(e.Target)
		}
		fmt.Fprintf(a.stdout, "%-13s %s %12d %s %s\n", e.Type, e.Mode, e.Size, e.Mtime.Format("2006-01-02 15:04"), name)
	}
}

func identityFlag(f *ui.Flags, dst *string) {
	f.String(dst, "age identity or SSH private key that opens the volume (default: ~/.ssh/id_ed25519)", []string{"i", "identity"})
}

func oneArg(f *ui.Flags, what string) (string, error) {
	switch args := f.Args(); len(args) {
	case 1:
		return args[0], nil
	case 0:
		return "", fault.New(fault.Usage, fmt.Errorf("%s: %s is missing", f.Name, what), f.Name+" --help shows an example")
	default:
		return "", fault.New(fault.Usage, fmt.Errorf("%s: one %s, not %d", f.Name, what, len(args)), f.Name+" --help shows an example")
	}
}

// parseRecipients reads recipients as given; none means one's own SSH key.
func parseRecipients(a *app, given []string) ([]age.Recipient, error) {
	if len(given) == 0 {
		p, err := homeFile(".ssh/id_ed25519.pub")
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(p); err != nil {
			return nil, fault.New(fault.Usage, errors.New("no recipient: nobody could open the volume"), "name one with -r, for example your public key: -r ~/.ssh/id_ed25519.pub")
		}
		given = []string{p}
	}
	rcpts, err := volume.ParseOwnRecipients(given, a.plugins())
	return rcpts, fault.New(fault.Usage, err, "")
}

// openVolume opens the command's FILE with an identity.
func openVolume(a *app, f *ui.Flags, id string) (*volume.Reader, error) {
	path, err := oneArg(f, "FILE")
	if err != nil {
		return nil, err
	}
	r, err := openWith(a, path, id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// identities reads an identity file, one's own SSH key if none is named.
func identities(a *app, id string) ([]age.Identity, error) {
	if id == "" {
		var err error
		if id, err = homeFile(".ssh/id_ed25519"); err != nil {
			return nil, err
		}
	}
	ids, err := volume.ParseIdentityFile(id, func() ([]byte, error) { return a.passphrase("Passphrase of " + id + ": ") }, a.plugins())
	return ids, fault.New(fault.Usage, err, "name the right one with -i")
}

func openWith(a *app, path, id string) (*volume.Reader, error) {
	ids, err := identities(a, id)
	if err != nil {
		return nil, err
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return openNodeDir(path, ids)
	}
	key, err := unwrapFile(path, ids)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return volume.OpenFile(path, key)
}

// openNodeDir opens what a job left that indexed its outputs instead of sealing
// them: a directory with keys.age, the cipher directory and its index.
func openNodeDir(dir string, ids []age.Identity) (*volume.Reader, error) {
	index, err := os.ReadFile(filepath.Join(dir, jobdir.IndexName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(fault.Usage, fmt.Errorf("it is a directory without %s", jobdir.IndexName),
			"name a sealed volume, or a node's directory whose outputs were indexed; sealbatch results opens what a job left otherwise")
	}
	if err != nil {
		return nil, err
	}
	keys, err := os.Open(filepath.Join(dir, jobdir.KeysName))
	if err != nil {
		return nil, err
	}
	defer keys.Close()
	id, key, err := volume.ReadKey(keys, ids...)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return volume.OpenIndexed(filepath.Join(dir, jobdir.CipherDirName), index, id, key)
}

func unwrapFile(path string, ids []age.Identity) (volume.Key, error) {
	f, err := os.Open(path)
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

func homeFile(rel string) (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("where %s lies: %w", rel, err)
	}
	return filepath.Join(home, rel), nil
}
