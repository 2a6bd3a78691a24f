package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sylabs/sif/v2/pkg/sif"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// Info is what Inspect finds.
type Info struct {
	Format string // "SIF"
	Arch   string // as Go spells it: amd64, arm64
	Size   int64  // bytes
	HPCS   bool   // HPCS's container-prep has made it
}

// Inspect reads what a SIF file says of itself: the file at path has to be a complete one,
// whose primary partition is a container's file system. Errors wrap ErrFormat, or fs errors,
// carry the exit code for usage and a hint.
func Inspect(path string) (Info, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return Info{}, fault.New(fault.Usage, fmt.Errorf("image: %w", err), "name a .sif file on this machine; apptainer build makes one")
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
		return Info{}, refuse(path, err.Error(), "apptainer build makes a .sif file; apptainer inspect FILE shows whether this is one")
	}
	return info, nil
}

// InspectAt is Inspect of what r holds, size bytes, which messages call name.
func InspectAt(r io.ReaderAt, size int64, name string) (Info, error) {
	info, err := inspectFile(r, size)
	if err != nil {
		return Info{}, refuse(name, err.Error(), "")
	}
	return info, nil
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
	return Info{Format: "SIF", Arch: arch, Size: size, HPCS: sifPrepared(f)}, nil
}
