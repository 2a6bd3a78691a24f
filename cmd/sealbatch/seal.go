package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/source"
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
	f.Strings(&recipients, "who can open it: age1... (post-quantum: age1pq1...; of a plugin: age1NAME1...),\n"+
		"ssh-ed25519 ..., ssh-rsa ..., or a file of them (default: your own ~/.ssh/id_ed25519.pub)", []string{"r", "recipient"})
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
	if _, _, err := input.Scan(ctx); err != nil { // what cannot be sealed is named at once, all of it
		return volume.Sealed{}, fmt.Errorf("seal %s: %w", input, err)
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

// parseRecipients reads recipients as given; none means one's own SSH key.
func parseRecipients(a *app, given []string) ([]age.Recipient, error) {
	if len(given) == 0 {
		p, err := homeFile(".ssh/id_ed25519.pub")
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(p); err != nil {
			return nil, fault.New(fault.Usage, errors.New("no recipient: nobody could open the volume"),
				"name one with -r, for example your public key: -r ~/.ssh/id_ed25519.pub")
		}
		given = []string{p}
	}
	rcpts, err := volume.ParseOwnRecipients(given, a.plugins())
	return rcpts, fault.New(fault.Usage, err, "")
}
