package hpcs

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// Artefact is an encrypted file of HPCS's, on this machine or at the site.
type Artefact struct {
	Path  string // of the encrypted file
	Shown string // how people are shown it
	Size  int64  // of the encrypted file, bytes
	Plain int64  // of what it holds, bytes
	Local bool   // it is on this machine
	Info  *Info  // nil if there is no info file

	fsys transfer.FS
	keys []age.Identity // one of which opens it
}

// Named is what a user named.
type Named struct {
	Path    string // of an info file or an encrypted file, on this machine or at the site; "" for none
	KeyFile string // of the age key
}

// Open opens what is named.
func (n Named) Open(site transfer.FS, log *slog.Logger) (*Artefact, error) {
	if n.KeyFile == "" {
		return nil, fault.New(fault.Usage, fmt.Errorf("--from-hpcs %s: %w is named", n.Path, errNoKey), "give --hpcs-key FILE; "+HintKey(""))
	}
	key, err := ReadKey(n.KeyFile)
	if err != nil {
		return nil, err
	}
	a, err := Open(site, n.Path, key)
	if err == nil && a.Info == nil {
		log.Warn("there is no info file beside it: no checksum says that it is what was shipped", "file", a.Shown)
	}
	return a, err
}

// Open opens what name says, an info file or the encrypted file beside which there may be one: on this machine, and else at the site.
// An info file on this machine may speak of a file that lies beside it under the same name.
func Open(site transfer.FS, name string, key *age.X25519Identity) (*Artefact, error) {
	a := &Artefact{fsys: transfer.Local{}, Local: true, keys: []age.Identity{key}}
	at, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	if _, err := a.fsys.Stat(at); errors.Is(err, fs.ErrNotExist) && path.IsAbs(name) {
		a.fsys, a.Local, at = site, false, path.Clean(name)
	}
	if err := a.find(site, at); err != nil {
		return nil, err
	}
	a.Shown = transfer.At(a.Path)
	if a.Local {
		a.Shown = a.Path
	}
	return a, a.measure()
}

// find finds the encrypted file and the info file.
func (a *Artefact) find(site transfer.FS, name string) error {
	info := name
	if !strings.HasSuffix(name, InfoSuffix) {
		info, a.Path = name+InfoSuffix, name
	}
	b, err := transfer.ReadFile(a.fsys, info, maxInfo)
	if errors.Is(err, fs.ErrNotExist) && a.Path != "" {
		return nil
	}
	if err != nil {
		return fault.New(fault.Usage, fmt.Errorf("HPCS's info file: %w", err), "--from-hpcs names an info file of HPCS's, "+
			"FILE"+InfoSuffix+", or FILE itself, on this machine or at the site")
	}
	in, err := ParseInfo(b)
	if err != nil {
		return fault.New(fault.Usage, fmt.Errorf("%s: %w", info, err), "an info file of sealbatch's needs no --from-hpcs: job-prep takes it as it is")
	}
	a.Info = &in
	if a.Path != "" {
		return nil
	}
	a.Path = path.Join(path.Dir(info), path.Base(in.PathAtRest))
	if _, err := a.fsys.Stat(a.Path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	a.fsys, a.Local, a.Path = site, false, in.PathAtRest
	return nil
}

// measure finds out how much the file holds, and whether the key opens it.
func (a *Artefact) measure() error {
	f, _, err := a.open()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, a.Plain, err = age.DecryptReaderAt(f, a.Size, a.keys...); err != nil {
		return a.why(err)
	}
	return nil
}

// why says of an error of age's what it means.
func (a *Artefact) why(err error) error {
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		secret := ""
		if a.Info != nil {
			secret = a.Info.SecretPath
		}
		return fault.New(fault.Key, fmt.Errorf("%s: the key does not open it", a.Shown), "each file has a key of its own; "+HintKey(secret))
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return fmt.Errorf("read %s: %w", a.Shown, err)
	}
	return fault.New(fault.Integrity, fmt.Errorf("%s: %w: %v", a.Shown, ErrDamaged, err), "take the file from where it is whole")
}

// open opens the encrypted file.
func (a *Artefact) open() (transfer.File, fs.FileInfo, error) {
	f, err := a.fsys.Open(a.Path)
	if err != nil {
		return nil, nil, fault.New(fault.Usage, fmt.Errorf("HPCS's file %s: %w", a.Shown, err), "")
	}
	st, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	a.Size = st.Size()
	return f, st, nil
}

// Content returns what the file holds, for reading here and there. Nothing but age vouches for it.
func (a *Artefact) Content() (io.ReaderAt, io.Closer, error) {
	f, _, err := a.open()
	if err != nil {
		return nil, nil, err
	}
	r, _, err := age.DecryptReaderAt(f, a.Size, a.keys...)
	if err != nil {
		return nil, nil, errors.Join(a.why(err), f.Close())
	}
	return r, f, nil
}

// Stream returns what the file holds, in order. Its end is an error, ErrChecksum, if the whole file is not that of which the info
// file speaks: what was read before must not be used then.
func (a *Artefact) Stream(ctx context.Context) (io.ReadCloser, error) {
	f, _, err := a.open()
	if err != nil {
		return nil, err
	}
	s := &stream{a: a, ctx: ctx, f: f, sum: sha512.New()}
	s.rest = bufio.NewReaderSize(cipher{s}, 1<<20) // large reads are several requests at once over SFTP
	if s.plain, err = age.Decrypt(s.rest, a.keys...); err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(context.Cause(ctx), f.Close())
		}
		return nil, errors.Join(a.why(err), f.Close())
	}
	return s, nil
}

// stream decrypts a file and holds it against its checksum.
type stream struct {
	a     *Artefact
	ctx   context.Context
	f     transfer.File
	rest  *bufio.Reader
	plain io.Reader
	sum   hash.Hash
}

// cipher is the encrypted file, which is hashed as it is read.
type cipher struct{ *stream }

func (c cipher) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.f.Read(p)
	c.sum.Write(p[:n])
	return n, err
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.plain.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		return n, s.ended()
	case err != nil && s.ctx.Err() == nil:
		return n, s.a.why(err)
	}
	return n, err
}

// ended returns io.EOF if the file was all that it has to be.
func (s *stream) ended() error {
	if _, err := io.Copy(io.Discard, s.rest); err != nil { // age has read to the end: nothing is left
		return err
	}
	if s.a.Info != nil && [sha512.Size]byte(s.sum.Sum(nil)) != s.a.Info.Checksum {
		return fault.New(fault.Integrity, fmt.Errorf("%s: its %w", s.a.Shown, ErrChecksum),
			"the file was altered or shipped again since; take both from where they are whole")
	}
	return io.EOF
}

// Close closes the file.
func (s *stream) Close() error { return s.f.Close() }

// fingerprint differs whenever what the file holds does, which the checksum says: it is compared as often as the file is read.
// Without one, nothing is known.
func (a *Artefact) fingerprint(how string) volume.Digest {
	if a.Info == nil {
		return volume.Digest{}
	}
	return sha256.Sum256(fmt.Appendf(nil, "hpcs 1\n%x\n%s\n", a.Info.Checksum, how))
}

// String is how messages call it.
func (a *Artefact) String() string { return a.Shown }

// Files are the files on this machine that are read.
func (a *Artefact) Files() []string {
	if !a.Local {
		return nil
	}
	return []string{a.Path, a.Path + InfoSuffix}
}
