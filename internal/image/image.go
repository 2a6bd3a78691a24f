// Package image reads container images. Today that is SIF, the format of
// Apptainer and SingularityCE, as their build command writes it. Other kinds
// are recognised, so that the error can say what to do.
package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sylabs/sif/v2/pkg/sif"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/inflate"
	"github.com/sealbatch/sealbatch/internal/oci"
)

// Info is what Inspect finds.
type Info struct {
	Format string // "SIF"
	Arch   string // as Go spells it: amd64, arm64
	Size   int64  // bytes
}

// ErrFormat says that something is not an image that sealbatch can read.
var ErrFormat = oci.ErrFormat

// Inspect recognises the image at path: a complete SIF file whose primary
// partition is a container's file system. Errors wrap ErrFormat, or fs errors,
// carry the exit code for usage and a hint.
func Inspect(path string) (Info, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil && isReference(path):
		return Info{}, refuse(path, "it names a registry", "make a .sif of it first: apptainer build IMAGE.sif "+path)
	case err != nil:
		return Info{}, fault.New(fault.Usage, fmt.Errorf("image: %w", err), "name a .sif file on this machine; apptainer build makes one")
	case st.IsDir():
		return Info{}, inspectDir(path)
	case !st.Mode().IsRegular():
		return Info{}, refuse(path, "it is not a regular file", "")
	}
	f, err := os.Open(path)
	if err != nil {
		return Info{}, fault.New(fault.Usage, fmt.Errorf("image: %w", err), "")
	}
	defer f.Close()
	info, err := inspectFile(f, st.Size())
	if err != nil {
		return Info{}, refuse(path, err.Error(), hintFor(f, path))
	}
	return info, nil
}

// isReference reports whether s names a transport, such as docker://, and no file.
func isReference(s string) bool {
	scheme, rest, ok := strings.Cut(s, "://")
	return ok && rest != "" && strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz-") == ""
}

func inspectDir(path string) error {
	if _, err := os.Stat(path + "/oci-layout"); err == nil {
		return refuse(path, "it is an OCI layout, which cannot be read yet", "make a .sif of it first: apptainer build IMAGE.sif oci:"+path)
	}
	return refuse(path, "it is a directory", "if it is a sandbox, make a .sif of it first: apptainer build IMAGE.sif "+path)
}

// unpackers are the programs for what is compressed.
var unpackers = map[inflate.Format]string{inflate.Gzip: "gunzip", inflate.Zstd: "unzstd", inflate.XZ: "unxz", inflate.Bzip2: "bunzip2"}

// hintFor looks at the first bytes of a file that is not a usable SIF.
func hintFor(f io.ReaderAt, path string) string {
	head := make([]byte, 512)
	n, _ := f.ReadAt(head, 0)
	head = head[:n]
	switch {
	case n > 262 && string(head[257:262]) == "ustar":
		return "it looks like a tar archive; make a .sif of it first: apptainer build IMAGE.sif docker-archive:" + path
	}
	if program := unpackers[inflate.Detect(head)]; program != "" {
		return "it is compressed; unpack it first, with " + program + "; then, if it is an archive of docker save: " +
			"apptainer build IMAGE.sif docker-archive:FILE"
	}
	return "apptainer build makes a .sif file; apptainer inspect FILE shows whether this is one"
}

// Fields of a SIF file's global header, which Inspect checks before the
// library allocates by them (struct header in sylabs/sif, pkg/sif/sif.go).
const (
	magicAt        = 32   // "SIF_MAGIC", after the line with which the file can be started
	totalAt        = 88   // int64, little endian: number of descriptors
	headerSize     = 128  // bytes
	maxDescriptors = 4096 // images in use have fewer than 50
)

// beginsSIF reports whether r begins as a SIF file does.
func beginsSIF(r io.ReaderAt) bool {
	const magic = "SIF_MAGIC\x00"
	b := make([]byte, len(magic))
	_, err := r.ReadAt(b, magicAt)
	return err == nil && string(b) == magic
}

// noWrite lets the library read a file that is open for reading only.
type noWrite struct{ *io.SectionReader }

func (noWrite) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }
func (noWrite) Truncate(int64) error      { return errors.ErrUnsupported }

// inspectFile reads a SIF file of size bytes.
func inspectFile(r io.ReaderAt, size int64) (Info, error) {
	var header [headerSize]byte
	if _, err := r.ReadAt(header[:], 0); err != nil {
		return Info{}, errors.New("it is too short for a SIF file")
	}
	if n := int64(binary.LittleEndian.Uint64(header[totalAt:])); n < 0 || n > maxDescriptors {
		return Info{}, errors.New("it is not a SIF file")
	}
	f, err := sif.LoadContainer(noWrite{io.NewSectionReader(r, 0, size)})
	if err != nil {
		return Info{}, fmt.Errorf("it is not a SIF file: %w", err)
	}
	d, err := f.GetDescriptor(sif.WithPartitionType(sif.PartPrimSys))
	if err != nil {
		return Info{}, errors.New("it has no system partition, or several")
	}
	kind, _, arch, err := d.PartitionMetadata()
	switch {
	case err != nil:
		return Info{}, fmt.Errorf("its system partition cannot be read: %w", err)
	case kind == sif.FsEncryptedSquashfs:
		return Info{}, errors.New("it is encrypted by its runtime; give the image as it was before, since sealbatch encrypts it")
	case d.Offset() < headerSize || d.Size() <= 0 || d.Offset() > size-d.Size():
		return Info{}, errors.New("its system partition does not lie within the file: it was cut off")
	}
	return Info{Format: "SIF", Arch: arch, Size: size}, nil
}
