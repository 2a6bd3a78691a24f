// Command image makes sealbatch's container images without Docker: an archive that docker load, podman load and skopeo
// take, of the static programs in a directory. The same programs give the same bytes.
//
//	image -bin bin -registry ghcr.io/lab/sealbatch -tag 1.0 -o images.tar
//	image -bin bin -root DIRECTORY
//
// With -root it lays out the images' files in a directory, as the Dockerfile wants them.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// options are what the flags say.
type options struct {
	bin, root, out string
	registry, tag  string
	version        string
	arch           string
	created        int64
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`directory` of sealbatch and gocryptfs")
	flag.StringVar(&o.root, "root", "", "lay the images' files out in a new `directory`, and make no image")
	flag.StringVar(&o.out, "o", "", "`file` to write the images to")
	flag.StringVar(&o.registry, "registry", "localhost/sealbatch", "what the images' names begin with: `HOST/PATH`")
	flag.StringVar(&o.tag, "tag", "latest", "`tag` of the images")
	flag.StringVar(&o.version, "version", "", "`version` that their labels name")
	flag.StringVar(&o.arch, "arch", runtime.GOARCH, "`architecture` of the programs: amd64 or arm64")
	flag.Int64Var(&o.created, "time", 0, "time of the files and images, in `seconds` since 1970")
	flag.Parse()
	if flag.NArg() != 0 || (o.root == "") == (o.out == "") {
		fmt.Fprintln(os.Stderr, "usage: image [flags] -o FILE | image -bin DIRECTORY -root DIRECTORY")
		os.Exit(2)
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	files, err := tree(o.bin)
	if err != nil {
		return err
	}
	if o.root != "" {
		return layOut(files, o.root)
	}
	images, err := o.images(files)
	if err != nil {
		return err
	}
	return replace(o.out, func(w io.Writer) error { return writeArchive(w, images, time.Unix(o.created, 0).UTC()) })
}

// images returns an image for each target, under the name that it is published by.
func (o options) images(files []file) ([]named, error) {
	created := time.Unix(o.created, 0).UTC()
	l, err := layer(files, created)
	if err != nil {
		return nil, err
	}
	var images []named
	for _, t := range targets {
		ref, err := name.NewTag(o.registry + "/" + t.name + ":" + o.tag)
		if err != nil {
			return nil, err
		}
		img, err := t.image(l, v1.Platform{OS: "linux", Architecture: o.arch}, created, labels(t.name, o.version))
		if err != nil {
			return nil, err
		}
		images = append(images, named{ref, img})
	}
	return images, nil
}

// replace writes a file, whole or not at all.
func replace(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
