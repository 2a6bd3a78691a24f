package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/output"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/internal/userdirs"
	"github.com/sealbatch/sealbatch/volume"
)

func runSeal(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch seal", `Seal a directory, a file, a tar archive's contents or several of them into one encrypted volume.
An INPUT of - is a tar archive on standard input.`, "INPUT...", `
sealbatch seal genomes/ -o genomes.sealed -r age1... -r ~/.ssh/colleague.pub
ssh archive cat genomes.tar.zst | sealbatch seal - -o genomes.sealed --exclude '*.log'
sealbatch seal genomes/ -o - | ssh archive 'cat >genomes.sealed'`)
	var out, name string
	var force bool
	var in inputFlags
	var recipients []string
	f.String(&out, "the sealed volume to write; - for standard output", []string{"o", "output"}, ui.Required)
	f.Bool(&force, "replace the output if it is a file that exists", []string{"force"}, ui.Whole)
	f.Strings(&recipients, "who can open it: age1... (post-quantum: age1pq1...; of a plugin: age1NAME1...),\n"+
		"ssh-ed25519 ..., ssh-rsa ..., or a file of them (default: your own ~/.ssh/id_ed25519.pub, or id_rsa.pub)", []string{"r", "recipient"})
	in.add(f)
	f.Word(&name, "what standard input's file is called, with --as-file", []string{"name"})
	if err := a.parse(f, args); err != nil {
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
	if name != "" && !(input.FromStdin() && input.AsFile) {
		return usageError("sealbatch seal: --name names standard input's file",
			"give it with - as INPUT and --as-file; other inputs keep their names")
	}
	input.FileName = name
	rcpts, files, err := parseRecipients(a, recipients)
	if err != nil {
		return err
	}
	if err := input.Check(); errors.Is(err, source.ErrInput) {
		return fault.New(fault.Usage, err, "")
	}
	reads := slices.Concat(input.Files(), files, sshFiles())
	s, err := sealTo(ctx, a, input, output.File{Path: out, Inputs: reads, Replace: force}, rcpts)
	if err != nil {
		return err
	}
	s.Key.Wipe()
	answer := a.stdout
	if isStdout(out) {
		answer = a.stderr
	}
	fmt.Fprintf(answer, "%s %s\n", s.ID, s.Digest)
	return nil
}

// stdoutName means standard output.
const stdoutName = "-"

// isStdout reports whether what was written to an output went to standard output, by whatever name.
func isStdout(path string) bool {
	if path == stdoutName {
		return true
	}
	st, err := os.Stat(path)
	stdout, serr := os.Stdout.Stat()
	return err == nil && serr == nil && os.SameFile(st, stdout)
}

// sealTo seals into a file, or into standard output, a pipe or a device as they are.
func sealTo(ctx context.Context, a *app, input source.Input, out output.File, rcpts []age.Recipient) (volume.Sealed, error) {
	stream, err := a.stream(out)
	if err == nil && stream == nil {
		input.Spool, err = filepath.Dir(out.Path), out.Check()
	}
	if err != nil {
		return volume.Sealed{}, err
	}
	holds, _, err := input.Scan(ctx)
	if err != nil { // what cannot be sealed is named at once, all of it
		return volume.Sealed{}, fmt.Errorf("seal %s: %w", input, err)
	}
	if holds.Entries == 0 && len(input.Exclude) > 0 && !input.FromStdin() {
		a.log.Warn("the volume is empty: --exclude leaves out everything in " + input.String())
	}
	p := ui.NewProgress(a.stderr, "sealing "+filepath.Base(out.Path), 0, 0)
	defer p.End(false)
	opt := volume.SealOptions{Recipients: rcpts, Progress: p.Update, Replace: out.Replace}
	var s volume.Sealed
	if stream == nil {
		s, err = volume.SealFile(ctx, out.Path, input, opt)
	} else {
		s, err = volume.Seal(ctx, stream, input, opt)
		err = errors.Join(err, stream.Close())
	}
	if err != nil {
		return s, fmt.Errorf("seal %s: %w", input, err)
	}
	p.End(true)
	return s, nil
}

// stream opens an output that is no file to be made; nil if it is one.
func (a *app) stream(out output.File) (io.WriteCloser, error) {
	if out.Path == stdoutName {
		if o, ok := a.stdout.(*ui.Output); ok {
			o.Holds("the sealed volume")
		}
		return struct {
			io.Writer
			io.Closer
		}{a.stdout, io.NopCloser(nil)}, output.CheckStdout(out.Inputs)
	}
	f, err := out.Stream()
	if f == nil {
		return nil, err
	}
	return f, nil
}

// parseRecipients reads recipients as given, and returns what they were read from, too; none means one's own SSH key.
func parseRecipients(a *app, given []string) (rcpts []age.Recipient, files []string, err error) {
	if len(given) == 0 {
		p := userdirs.Key() + ".pub"
		if _, err := os.Stat(p); err != nil {
			return nil, nil, fault.New(fault.Usage, errors.New("no recipient: nobody could open the volume"),
				"name one with -r, for example your public key: -r ~/.ssh/id_ed25519.pub")
		}
		given = []string{p}
	}
	rcpts, err = volume.ParseOwnRecipients(given, a.plugins(), a.skipped)
	return rcpts, given, fault.New(fault.Usage, err, "")
}
