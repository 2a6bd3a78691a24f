package main

import (
	"context"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/volume"
)

func runRewrap(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch rewrap", "Change who can open a sealed volume, without sealing its data anew.", "FILE", `
sealbatch rewrap genomes.sealed -i ~/.ssh/id_ed25519 -r ~/.ssh/id_ed25519.pub -r age1...`)
	var id string
	var recipients []string
	identityFlag(f, &id)
	f.Strings(&recipients, "who can open it from now on: all of them, yourself included;\nage1..., ssh-ed25519 ..., ssh-rsa ..., or a file of them",
		[]string{"r", "recipient"}, ui.Required)
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	path, err := oneArg(f, "FILE")
	if err != nil {
		return err
	}
	rcpts, err := parseRecipients(a, recipients)
	if err != nil {
		return err
	}
	ids, err := identities(a, id)
	if err != nil {
		return err
	}
	volumeID, digest, err := volume.Rewrap(ctx, path, ids, rcpts)
	if err != nil {
		return fmt.Errorf("rewrap %s: %w", path, err)
	}
	fmt.Fprintf(a.stdout, "%s %s\n", volumeID, digest)
	fmt.Fprintln(a.stderr, "note: the file's checksum is another one now, and whoever could open the volume before may have kept a copy")
	return nil
}
