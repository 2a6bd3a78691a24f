package hpcs

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"io"
	"path"
	"strings"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// What a job is given of a file's key is age's file key, which opens this one file, and zeros: key services keep 32 bytes.
const (
	fileKeyLen = 16
	jobKeyLen  = 32
)

// AtSite opens the file at the site that an info file there speaks of. keyFiles are those of age keys, one of which opens it.
func AtSite(site transfer.FS, info string, keyFiles []string) (*Artefact, error) {
	if !path.IsAbs(info) {
		real, err := site.RealPath(info)
		if err != nil {
			return nil, fault.New(fault.Usage, fmt.Errorf("HPCS's info file: %w", err), "")
		}
		info = real
	}
	if !strings.HasSuffix(info, InfoSuffix) {
		return nil, fault.New(fault.Usage, fmt.Errorf("%s: %w: its name does not end in %s", transfer.At(info), ErrInfo, InfoSuffix), "")
	}
	a := &Artefact{fsys: site}
	for _, file := range keyFiles {
		key, err := ReadKey(file)
		if err != nil {
			return nil, err
		}
		a.keys = append(a.keys, key)
	}
	if err := a.find(site, path.Clean(info)); err != nil {
		return nil, fault.New(fault.Usage, err, "HPCS's info file has to be as HPCS wrote it, with the file beside it or where it says")
	}
	a.Shown = transfer.At(a.Path)
	return a, a.measure()
}

// JobKey returns what a job needs to open this file, and no other that its age key opens: 32 bytes.
func (a *Artefact) JobKey() ([]byte, error) {
	f, _, err := a.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	header, err := age.ExtractHeader(f)
	if err != nil {
		return nil, a.why(err)
	}
	key, err := age.DecryptHeader(header, a.keys...)
	if err != nil {
		return nil, a.why(err)
	}
	defer clear(key)
	if len(key) != fileKeyLen {
		return nil, fmt.Errorf("%s: %w: file key of %d bytes", a.Shown, ErrKey, len(key))
	}
	return append(key[:fileKeyLen:fileKeyLen], make([]byte, jobKeyLen-fileKeyLen)...), nil
}

// Pinned returns the file that is open as f, of which a job's manifest has the checksum. key is JobKey's, which is copied. f
// stays open as long as the artefact is read.
func Pinned(f transfer.File, sum [sha512.Size]byte, key []byte) (*Artefact, error) {
	if len(key) != jobKeyLen || !bytes.Equal(key[fileKeyLen:], make([]byte, jobKeyLen-fileKeyLen)) {
		return nil, fmt.Errorf("%w: not a job's", ErrKey)
	}
	a := &Artefact{
		Shown: "HPCS's file", Local: true, Info: &Info{Checksum: sum}, fsys: opened{f: f},
		keys: []age.Identity{age.NewInjectedFileKeyIdentity(bytes.Clone(key[:fileKeyLen]))},
	}
	return a, a.measure()
}

// opened is a file system of which nothing but one open file is wanted.
type opened struct {
	transfer.FS
	f transfer.File
}

// Open returns the file, from its beginning.
func (o opened) Open(string) (transfer.File, error) {
	st, err := o.f.Stat()
	if err != nil {
		return nil, err
	}
	return borrowed{io.NewSectionReader(o.f, 0, st.Size()), o.f}, nil
}

// borrowed is a file that somebody else closes.
type borrowed struct {
	*io.SectionReader
	transfer.File
}

func (b borrowed) Read(p []byte) (int, error)              { return b.SectionReader.Read(p) }
func (b borrowed) ReadAt(p []byte, off int64) (int, error) { return b.SectionReader.ReadAt(p, off) }
func (borrowed) Close() error                              { return nil }
