package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/volume"
)

func runVerify(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch verify",
		`Check every file in a sealed volume, or in a node's directory with an index: content, names and attributes.
What lies between the files in the sealed volume (tar headers, padding) is compared with --checksum only.`, "FILE", `
sealbatch verify genomes.sealed -i ~/.ssh/id_ed25519 --digest sha256:...`)
	var how opening
	var digest, checksum string
	how.add(f)
	f.Word(&digest, "the volume digest that it must have, from a signed info file", []string{"digest"})
	f.Word(&checksum, "the checksum that the whole sealed volume must have, every byte, from a signed info file", []string{"checksum"})
	if err := a.parse(f, args); err != nil {
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
	r, err := openVolume(a, f, how)
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
			fmt.Fprintf(a.stderr, "damaged: %s: %s\n", text.Printable(d.Path), text.Printable(d.Err.Error()))
		}
		return fmt.Errorf("verify %s: %w", file, err)
	}
	p.End(true)
	fmt.Fprintf(a.stdout, "%s: every file is as it was sealed: %d entries, %s\n", file, r.Entries(), text.Size(report.PlainBytes))
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
	if err == nil && d == (volume.Digest{}) {
		err = fmt.Errorf("%s is no digest, but zeros", s) // which would be taken for none
	}
	return d, fault.New(fault.Usage, err, "")
}
