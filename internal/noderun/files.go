package noderun

import (
	"crypto/sha256"
	"fmt"
	"io"
	"path"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

// maxScript bounds a verification script, in bytes.
const maxScript = 4 << 20

// checkBinaries compares the programs in dir with the manifest's digests.
func checkBinaries(dir string, refs []manifest.FileRef) error {
	pinned := map[string]manifest.FileRef{}
	for _, r := range refs {
		pinned[r.Name] = r
	}
	for _, name := range jobdir.Programs() {
		ref, ok := pinned[name]
		if !ok {
			return fmt.Errorf("%w: job manifest pins no %s", manifest.ErrInvalid, name)
		}
		if err := checkFile(filepath.Join(dir, name), ref); err != nil {
			return err
		}
	}
	return nil
}

func checkFile(path string, ref manifest.FileRef) error {
	f, err := fsx.OpenRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, ref.Size+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", ref.Name, err)
	}
	if n != ref.Size || manifest.Digest(h.Sum(nil)) != ref.Digest {
		return fmt.Errorf("%w: program %s is not the one that the manifest pins", volume.ErrIntegrity, ref.Name)
	}
	return nil
}

// readScripts reads scripts into memory and checks these bytes, which are the
// ones to run.
func readScripts(job fsx.Dir, dir string, refs []manifest.FileRef) ([][]byte, error) {
	out := make([][]byte, len(refs))
	for i, ref := range refs {
		b, err := job.ReadRegular(path.Join(dir, ref.Name), maxScript)
		if err != nil {
			return nil, fmt.Errorf("read verification script %d: %w", i+1, err)
		}
		if int64(len(b)) != ref.Size || manifest.DigestOf(b) != ref.Digest {
			return nil, fmt.Errorf("%w: verification script %d is not the one that the manifest pins", volume.ErrIntegrity, i+1)
		}
		out[i] = b
	}
	return out, nil
}
