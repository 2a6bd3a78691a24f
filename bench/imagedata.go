package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
)

// The images, in MB of what their layers hold: Debian as the test cluster's hosts have it, in two layers, and that with what
// this machine has in /usr, in a third one.
const (
	smallImage = 350
	largeImage = 2000
)

// imageDir is where the images lie.
const imageDir = "image"

func (b *bench) imagePath(name string) string { return b.path(filepath.Join(imageDir, name)) }

// makeImage writes one image three times: as an OCI layout ("oci") with gzip layers, as docker save writes it ("saved.tar"), with
// plain layers, and as one tar archive of all ("flat.tar").
func (b *bench) makeImage(ctx context.Context, megabytes int) error {
	if err := os.MkdirAll(b.imagePath("layers"), 0o755); err != nil {
		return err
	}
	parts := []string{"--exclude=./dev --exclude=./usr/share --exclude=./opt .", "./usr/share ./opt"}
	var plain, packed []string
	for i, part := range parts {
		file := b.imagePath(fmt.Sprintf("layers/%d.tar", i))
		if err := b.pipe(ctx, "tar --sort=name --numeric-owner -C "+b.rootfs+" -cf "+file+" "+part); err != nil {
			return err
		}
		plain = append(plain, file)
	}
	if more := megabytes - smallImage; more > 0 {
		list, file := b.imagePath("layers/list"), b.imagePath("layers/more.tar")
		if err := listFiles("/usr", int64(more)*1e6, list); err != nil {
			return err
		}
		if err := b.pipe(ctx, "tar --null --numeric-owner --transform=s,^,opt/more/,S -C /usr -cf "+file+" -T "+list); err != nil {
			return err
		}
		plain = append(plain, file)
	}
	for _, file := range plain {
		if err := compress(file, file+".gz"); err != nil {
			return err
		}
		packed = append(packed, file+".gz")
	}
	flat := b.imagePath("flat.tar")
	if err := errors.Join(writeLayout(b.imagePath("oci"), packed), writeSaved(b.imagePath("saved.tar"), plain)); err != nil {
		return err
	}
	return b.pipe(ctx, "cp "+plain[0]+" "+flat+" && tar -A -f "+flat+" "+strings.Join(plain[1:], " ")+" && rm -r "+b.imagePath("layers"))
}

// listFiles writes names of files and links below dir, relative to it and each with a zero behind it, until they are as large as most.
func listFiles(dir string, most int64, path string) error {
	var list bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&^fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if most -= info.Size(); most < 0 {
			return fs.SkipAll
		}
		name, err := filepath.Rel(dir, path)
		list.WriteString(name + "\x00")
		return err
	})
	return errors.Join(err, os.WriteFile(path, list.Bytes(), 0o600))
}

func compress(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	z := gzip.NewWriter(out)
	if _, err := io.Copy(z, in); err != nil {
		return err
	}
	return errors.Join(z.Close(), out.Close())
}

// imageOf is the image that has these layers.
func imageOf(files []string) (v1.Image, error) {
	var layers []v1.Layer
	for _, file := range files {
		l, err := tarball.LayerFromFile(file)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c.OS, c.Architecture = "linux", runtime.GOARCH
	c.Config = v1.Config{Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"true"}}
	return mutate.ConfigFile(img, c)
}

func writeLayout(dir string, files []string) error {
	img, err := imageOf(files)
	if err != nil {
		return err
	}
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return p.AppendImage(img)
}

// writeSaved writes what docker save did before it compressed: layers as they are.
func writeSaved(path string, files []string) (err error) {
	img, err := imageOf(files)
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	item := tarball.Descriptor{Config: "config.json", RepoTags: []string{"bench/image:latest"}}
	for i, file := range files {
		item.Layers = append(item.Layers, fmt.Sprintf("%d/layer.tar", i))
		if err := addFile(w, item.Layers[i], file); err != nil {
			return err
		}
	}
	manifest, err := json.Marshal(tarball.Manifest{item})
	if err != nil {
		return err
	}
	return errors.Join(addText(w, item.Config, config), addText(w, "manifest.json", manifest), w.Close())
}

func addFile(w *tar.Writer, name, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: st.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return err
}

func addText(w *tar.Writer, name string, text []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
		return err
	}
	_, err := w.Write(text)
	return err
}
