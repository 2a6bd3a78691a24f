package jobdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

var (
	// ErrNotOwn is that of a directory that is not the user's own, or not private.
	ErrNotOwn = errors.New("it is not a directory of one's own with mode 0700")
	// ErrManifest is that of another manifest than the one that the script pins.
	ErrManifest = fault.Sentinel(fault.Integrity, "the job manifest is not the one that was submitted")
)

// maxManifest bounds the manifest, in bytes.
const maxManifest = 1 << 20

// Open opens the job directory at an absolute path, by the rules of the package
// comment: it holds the manifest of that digest, which Open returns. What is
// done in the directory after that is done through the root; the path may lead
// elsewhere any time.
func Open(path string, digest manifest.Digest) (*os.Root, manifest.Manifest, error) {
	root, m, err := open(path, digest)
	if err != nil {
		return nil, manifest.Manifest{}, fault.WithHint(fmt.Errorf("job directory %s: %w", path, err), hint(err))
	}
	return root, m, nil
}

// hint returns what the submitter can do about an error of opening.
func hint(err error) string {
	switch {
	case errors.Is(err, ErrLink), errors.Is(err, ErrLinks):
		return "submit the job with a --workdir that does not lead through that link"
	case errors.Is(err, ErrAncestor):
		return "choose another --workdir, or ask for chmod o-w or +t"
	case errors.Is(err, ErrNotOwn), errors.Is(err, ErrManifest):
		return "somebody has put another directory or manifest there since it was submitted: submit the job again"
	}
	return ""
}

func open(path string, digest manifest.Digest) (*os.Root, manifest.Manifest, error) {
	if !filepath.IsAbs(path) {
		return nil, manifest.Manifest{}, errors.New("the path is not absolute")
	}
	top, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, manifest.Manifest{}, err
	}
	w, err := newWalk(top, uint32(os.Geteuid()))
	if err != nil {
		return nil, manifest.Manifest{}, err
	}
	defer w.close()
	if err := w.to(path); err != nil {
		return nil, manifest.Manifest{}, err
	}
	return w.claim(digest)
}

// claim opens the directory where the walk is as the job's own.
func (w *walk) claim(digest manifest.Digest) (*os.Root, manifest.Manifest, error) {
	root, err := ownRoot(w.here().dir, w.uid)
	if err != nil {
		return nil, manifest.Manifest{}, err
	}
	m, err := readManifest(root, digest)
	if err != nil {
		return nil, manifest.Manifest{}, errors.Join(err, root.Close())
	}
	return root, m, nil
}

// ownRoot opens as a root what is open as a place already.
func ownRoot(dir *os.File, uid uint32) (*os.Root, error) {
	seen, err := dir.Stat()
	if err != nil {
		return nil, err
	}
	// Below a setgid directory every directory is one.
	private := seen.Mode()&^fs.ModeSetgid == fs.ModeDir|0o700
	if !private || ownerOf(seen) != uid {
		return nil, ErrNotOwn
	}
	root, err := os.OpenRoot(fsx.FDPath(dir))
	if err != nil {
		return nil, err
	}
	if err := isSame(root, seen); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// isSame compares a root with what was looked at before.
func isSame(root *os.Root, seen fs.FileInfo) error {
	opened, err := root.Stat(".")
	if err != nil {
		return err
	}
	if !os.SameFile(opened, seen) {
		return errors.New("another directory was opened than the one that was looked at")
	}
	return nil
}

// readManifest reads the manifest that the job was submitted with.
func readManifest(root *os.Root, want manifest.Digest) (manifest.Manifest, error) {
	b, err := fsx.Dir{Root: root}.ReadRegular(ManifestName, maxManifest)
	if err != nil {
		return manifest.Manifest{}, fmt.Errorf("read the job manifest: %w", err)
	}
	if manifest.DigestOf(b) != want {
		return manifest.Manifest{}, ErrManifest
	}
	m, _, err := manifest.Parse(b)
	return m, err
}
