package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/volume"
)

// Input is what is sealed: a tree, and what can be told of it beforehand. Walk may be called again, to compare the input
// with what is published; a volume.Late entry is then written again, too.
type Input interface {
	volume.Source
	fmt.Stringer // how messages call it
	// Scan looks at the input without reading its content: how much it is, 0 where
	// that is not known, and what of it could not be sealed. Sizes that are guessed
	// are guessed low: nothing begins where they have no room. The fingerprint differs
	// whenever anything in the input did, or in how it is converted: where it is that of what
	// is published, nothing is read. The zero fingerprint says that this cannot
	// be told: the input is then not compared with what it was before it was sealed,
	// and a run that was broken off is not resumed.
	Scan(ctx context.Context) (volume.Usage, volume.Digest, error)
}

// changeFinder is an Input that can name an entry that changed at or after a time;
// "" if none can be told by its change time.
type changeFinder interface {
	ChangedSince(ctx context.Context, since time.Time) string
}

// scanned is an input after its first scan.
type scanned struct {
	Input
	usage       volume.Usage
	fingerprint volume.Digest
}

func scan(ctx context.Context, in Input) (scanned, error) {
	usage, fingerprint, err := in.Scan(ctx)
	if errors.Is(err, volume.ErrChanged) {
		err = fault.New(fault.Other, err, hintStill)
	}
	if err != nil {
		return scanned{}, fmt.Errorf("input %s: %w", in, err)
	}
	return scanned{in, usage, fingerprint}, nil
}

// resumable reports whether a later run can tell the input from a changed one.
func (s scanned) resumable() bool { return s.fingerprint != volume.Digest{} }

// unchanged fails with ErrChanged if the input is not what it was at the scan;
// since is when sealing began.
func (s scanned) unchanged(ctx context.Context, since time.Time) error {
	if !s.resumable() {
		return nil
	}
	_, now, err := s.Scan(ctx)
	if err != nil || now == s.fingerprint {
		return err
	}
	what := ""
	if f, ok := s.Input.(changeFinder); ok {
		what = f.ChangedSince(ctx, since)
	}
	if what == "" {
		what = s.String()
	}
	return fmt.Errorf("%q %w", what, volume.ErrChanged)
}

// hintGoOn returns what the same command does once the sealed file is made.
func (s scanned) hintGoOn() string {
	if s.resumable() {
		return hintGoOn
	}
	return "the same command, with the same " + s.String() + ", begins again"
}
