package sifbuild

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sylabs/sif/v2/pkg/sif"
)

// Names of the objects of a SIF file, as the runtimes know them.
const (
	inspectName = "inspect-metadata.json"
	configName  = "oci-config.json"
)

// launchScript is what a SIF file begins with: executed, it asks for the runtime.
const launchScript = "#!/usr/bin/env run-singularity\n"

// objects are the small ones of a SIF file; the file system follows them.
type objects struct {
	deffile, inspect, config []byte
	arch                     string // as Go spells it
	created                  time.Time
}

// head returns the first bytes of the SIF file whose partition has size bytes: all before the partition. How many
// they are does not depend on size. There is nothing in it that differs from one call to the next.
func (o objects) head(size int64) ([]byte, error) {
	var in []sif.DescriptorInput
	for _, c := range []struct {
		kind    sif.DataType
		content io.Reader
		option  sif.DescriptorInputOpt
	}{
		{sif.DataDeffile, bytes.NewReader(o.deffile), sif.OptObjectName("")},
		{sif.DataGenericJSON, bytes.NewReader(o.inspect), sif.OptObjectName(inspectName)},
		{sif.DataGenericJSON, bytes.NewReader(o.config), sif.OptObjectName(configName)},
		{sif.DataPartition, &gap{size: size}, sif.OptPartitionMetadata(sif.FsSquash, sif.PartPrimSys, o.arch)},
	} {
		d, err := sif.NewDescriptorInput(c.kind, c.content, c.option)
		if err != nil {
			return nil, err
		}
		in = append(in, d)
	}
	var f beginning
	image, err := sif.CreateContainer(&f, sif.OptCreateDeterministic(), sif.OptCreateWithTime(o.created),
		sif.OptCreateWithLaunchScript(launchScript), sif.OptCreateWithDescriptors(in...))
	if err != nil {
		return nil, err
	}
	if err := image.UnloadContainer(); err != nil {
		return nil, err
	}
	if f.gap == nil {
		return nil, errors.New("the SIF library wrote no partition")
	}
	return append(f.b, make([]byte, *f.gap-int64(len(f.b)))...), nil
}

// gap stands for a partition: where it is copied, size bytes are passed over.
type gap struct{ size int64 }

func (g *gap) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// WriteTo implements io.WriterTo, by which io.Copy copies.
func (g *gap) WriteTo(w io.Writer) (int64, error) {
	f, ok := w.(*beginning)
	if !ok {
		return 0, fmt.Errorf("a partition cannot be written to %T", w)
	}
	f.gap = new(f.at)
	f.at += g.size
	return g.size, nil
}

// beginning keeps what is written to a file, of which one part is a gap.
type beginning struct {
	b   []byte
	at  int64
	gap *int64 // where it begins; nil if there is none so far
}

// maxHead bounds what stands before a partition, the image's configuration above all.
const maxHead = 64 << 20

func (f *beginning) Write(p []byte) (int, error) {
	if f.at > maxHead-int64(len(p)) {
		return 0, errors.New("the image's configuration is too large")
	}
	if n := int(f.at) + len(p); n > len(f.b) {
		f.b = append(f.b, make([]byte, n-len(f.b))...)
	}
	copy(f.b[f.at:], p)
	f.at += int64(len(p))
	return len(p), nil
}

// Seek implements io.Seeker. Nothing is sought but from the start.
func (f *beginning) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		return 0, errors.ErrUnsupported
	}
	f.at = offset
	return offset, nil
}

func (f *beginning) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (f *beginning) Truncate(int64) error              { return errors.ErrUnsupported }
