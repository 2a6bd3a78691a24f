package volume

import (
	"context"
	"crypto/rand"

	"github.com/sealbatch/sealbatch/internal/output"
)

// SealFile seals src into a new file at path, mode 0600. The volume has no name, or one that nobody
// can guess, until it is whole and durable; on failure nothing of it stays. fs.ErrExist if there is
// a file and opt does not say that it gives way; what is no regular file is never replaced.
func SealFile(ctx context.Context, path string, src Source, opt SealOptions) (s Sealed, err error) {
	f, err := output.File{Path: path, Replace: opt.Replace}.Create()
	if err != nil {
		return s, err
	}
	defer f.Discard()
	defer func() {
		if err != nil {
			s.Key.Wipe()
		}
	}()
	into := sealer{random: rand.Reader, wrap: wrapFresh, rewritable: f.File}
	if s, err = into.seal(ctx, f.File, src, opt); err != nil {
		return s, err
	}
	if opt.Confirm != nil {
		if err = opt.Confirm(s); err != nil {
			return s, err
		}
	}
	return s, f.Commit()
}
