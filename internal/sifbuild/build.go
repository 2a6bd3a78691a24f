package sifbuild

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/layers"
	"github.com/sealbatch/sealbatch/internal/squashfs"
	"github.com/sealbatch/sealbatch/volume"
)

// conversion changes whenever the same image becomes another SIF file, so that images which were
// prepared before are prepared again.
const conversion = "sealbatch-sif/1"

// ErrImage says that an image cannot become a SIF file.
var ErrImage = fault.Sentinel(fault.Usage, "it cannot be converted")

// Source is the SIF file that is made of an image, as what is sealed: a directory with one file. What it
// is made of is read while it is sealed.
type Source struct {
	Image    *image.Image
	FileName string // in the volume
	Options  squashfs.Options
	Log      *slog.Logger
}

// String returns how messages call the image.
func (s Source) String() string { return s.Image.Reference }

// Files returns what is read on this machine, which nothing may be written over.
func (s Source) Files() []string {
	if s.Image.Path == "" {
		return nil
	}
	return []string{s.Image.Path}
}

// Scan reads no layer. The fingerprint is of what the SIF file depends on, whatever the image is called. ErrImage of
// an image of which none can be made.
func (s Source) Scan(context.Context) (volume.Usage, volume.Digest, error) {
	var u volume.Usage
	quiet := s
	quiet.Log = nil
	if _, err := quiet.begin(); err != nil {
		return u, volume.Digest{}, err
	}
	u.SealedBytes = s.least()
	key := fmt.Sprintf("%s\n%s\n%s\n%s\n%d %d", conversion, s.Image.DigestOf, s.Image.Digest, s.Image.Platform,
		s.Options.Compression, s.Options.Level)
	return u, volume.Digest(sha256.Sum256([]byte(key))), nil
}

// least guesses how large the SIF file is, a little low, since layers that hide much of those below are not rare: by it
// there is no room, or there may be.
func (s Source) least() (size int64) {
	for _, l := range s.Image.Layers {
		if stored := max(l.Size, 0); l.Digest != "" && l.Digest != l.DiffID {
			size += stored / 4 * 3 // compressed, as it will be again
		} else {
			size += stored / 5
		}
	}
	return size
}

// Walk emits the directory and the file.
func (s Source) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	b, err := s.begin()
	if err != nil {
		return err
	}
	attr := volume.Attr{Type: volume.Dir, Mode: 0o755, Mtime: b.created, Nlink: 2}
	if _, err := emit(volume.Entry{Attr: attr}); err != nil {
		return err
	}
	_, err = emit(volume.Entry{
		Name: s.FileName,
		Attr: volume.Attr{Type: volume.File, Mode: 0o644, Mtime: b.created, Nlink: 1},
		Late: &volume.Late{HeadSize: b.headSize, Write: b.write},
	})
	return err
}

// build is one SIF file that is being made.
type build struct {
	Source
	created  time.Time
	objects  objects
	headSize int64
	files    map[string]string // below /.singularity.d
}

// begin makes all that comes from the image's configuration.
func (s Source) begin() (*build, error) {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	os, arch, _ := strings.Cut(s.Image.Platform, "/")
	arch, _, _ = strings.Cut(arch, "/")
	if os != "linux" {
		return nil, fmt.Errorf("%w: it is for %s, and the container runtimes run Linux's alone", ErrImage, s.Image.Platform)
	}
	c := s.Image.Config
	b := &build{Source: s, created: clamp(c.Created.Time)}
	if err := b.describe(c, arch); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	head, err := b.objects.head(0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	b.headSize = int64(len(head)) + squashfs.SuperblockSize
	return b, nil
}

// describe fills in files and objects.
func (b *build) describe(c *v1.ConfigFile, arch string) error {
	for _, word := range append(c.Config.Entrypoint, c.Config.Cmd...) {
		if strings.Contains(word, "\x00") {
			return errors.New("its entrypoint or command contains a zero byte")
		}
	}
	env, dropped := envScript(c.Config.Env)
	if len(dropped) > 0 {
		b.Log.Warn("variables of the image's that no shell can set are left out", "variables", fmt.Sprintf("%q", dropped))
	}
	from := originOf(b.Image.Reference, b.Image.Digest)
	labels := labelsOf(c, arch, from)
	text, err := json.MarshalIndent(labels, "", "\t")
	if err != nil {
		return err
	}
	b.files = map[string]string{
		envImage: env, "runscript": runScript(c.Config.Entrypoint, c.Config.Cmd),
		"Singularity": from.deffile(), "labels.json": string(text),
	}
	for name, content := range scripts {
		b.files[name] = content
	}
	b.objects = objects{deffile: []byte(from.deffile()), arch: arch, created: b.created}
	if b.objects.inspect, err = inspectJSON(b.files, labels); err != nil {
		return err
	}
	b.objects.config, err = json.Marshal(c.Config)
	return err
}

// write writes all of the SIF file but its head, which it returns.
func (b *build) write(ctx context.Context, w io.Writer) (head []byte, err error) {
	tree, err := layers.Merge(ctx, b.Image.Layers, layers.Limits{})
	if err != nil {
		return nil, err
	}
	a := &addition{tree: tree, mtime: b.created}
	if err := a.add(b.files); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	b.notice(a)
	o := b.Options
	o.MTime = b.created
	fs, err := squashfs.NewWriter(ctx, w, o)
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	for _, t := range a.texts {
		if t.node.Content, err = fs.Add(strings.NewReader(t.content), int64(len(t.content))); err != nil {
			return nil, err
		}
	}
	err = tree.Contents(ctx, func(n *squashfs.Node, r io.Reader, size int64) (err error) {
		n.Content, err = fs.Add(r, size)
		return err
	})
	if err != nil {
		return nil, err
	}
	superblock, size, err := fs.Finish(tree.Root)
	if err != nil {
		return nil, err
	}
	if n := fs.ClampedTimes(); n > 0 {
		b.Log.Info("files whose time lies before 1970 or after 2106 have the nearest that SquashFS can hold", "files", n)
	}
	if head, err = b.objects.head(size); err != nil {
		return nil, err
	}
	return append(head, superblock[:]...), nil
}

// notice says what is not as it was in the image, or cannot be.
func (b *build) notice(a *addition) {
	if what := a.tree.Dropped.String(); what != "" {
		b.Log.Info("left out of the image, since no job may use them: " + what)
	}
	if len(a.replaced) > 0 {
		b.Log.Warn("replaced in the image, since the runtime mounts there: " + strings.Join(a.replaced, ", "))
	}
	if !executable(a.tree, "bin/sh") {
		b.Log.Warn("the image has no /bin/sh: its program runs, but no shell and no verification scripts (job-prep -i and -o)")
	}
}

// clamp returns t as whole seconds, and the beginning of 1970 for a time that says nothing.
func clamp(t time.Time) time.Time { return time.Unix(max(t.Unix(), 0), 0).UTC() }
