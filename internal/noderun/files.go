package noderun

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

// Bounds of what is read into memory, in bytes.
const (
	maxManifest = 1 << 20
	maxScript   = 4 << 20
)

// readManifest reads the manifest that the job was submitted with.
func readManifest(path, digest string) (manifest.Manifest, manifest.Digest, error) {
	var zero manifest.Digest
	want, err := manifest.ParseDigest(digest)
	if err != nil {
		return manifest.Manifest{}, zero, err
	}
	b, err := readBounded(path, maxManifest)
	if err != nil {
		return manifest.Manifest{}, zero, fmt.Errorf("read the job manifest: %w", err)
	}
	if manifest.DigestOf(b) != want {
		return manifest.Manifest{}, zero, failed(ExitIntegrity,
			fmt.Errorf("%w: the job manifest is not the one that was submitted", volume.ErrIntegrity))
	}
	return manifest.Parse(b)
}

// checkBinaries compares the programs in dir with the manifest's digests.
func checkBinaries(dir string, refs []manifest.FileRef) error {
	pinned := map[string]manifest.FileRef{}
	for _, r := range refs {
		pinned[r.Name] = r
	}
	for _, name := range []string{"sealbatch", "gocryptfs"} {
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
	f, err := openRegular(path)
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
func readScripts(dir string, refs []manifest.FileRef) ([][]byte, error) {
	out := make([][]byte, len(refs))
	for i, ref := range refs {
		b, err := readBounded(filepath.Join(dir, ref.Name), maxScript)
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

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", manifest.ErrInvalid, limit)
	}
	return b, nil
}

// openRegular opens a regular file; a pipe in its place does not block.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		_ = f.Close()
		return nil, fmt.Errorf("%w: not a regular file", manifest.ErrInvalid)
	}
	return f, nil
}

// writeNew writes a file that must not exist yet, and makes it durable.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if serr := f.Sync(); err == nil {
		err = serr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// replace writes a file under a temporary name, makes it durable, and gives it
// its name.
func replace(path string, data []byte) error {
	tmp := path + ".partial"
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := writeNew(tmp, data); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return commit(tmp, path)
}

// commit renames tmp, whose content is durable, to path, durably.
func commit(tmp, path string) error {
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
