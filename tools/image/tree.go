package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// file is a file, a directory or a symbolic link of the images.
type file struct {
	name    string // without leading slash
	mode    int64  // with the bits of tar, such as 01000
	kind    byte   // of tar
	content []byte
	target  string
}

// tree returns what is in the images: the static programs, links by whose names they run a job's steps, the
// authorities that browsers trust, and a place for temporary files. Parents stand before what is in them.
func tree(bin string) ([]file, error) {
	dir := func(name string, mode int64) file { return file{name: name, mode: mode, kind: tar.TypeDir} }
	files := []file{
		dir("etc", 0o755), dir("etc/ssl", 0o755), dir("etc/ssl/certs", 0o755),
		// Where Go, Debian and Alpine look for it.
		{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, kind: tar.TypeReg, content: authorities()},
		dir("tmp", 0o1777), dir("usr", 0o755), dir("usr/local", 0o755), dir("usr/local/bin", 0o755),
	}
	for _, program := range []string{"gocryptfs", "sealbatch"} {
		b, err := os.ReadFile(filepath.Join(bin, program))
		if err != nil {
			return nil, fmt.Errorf("%w: make build makes it", err)
		}
		files = append(files, file{name: "usr/local/bin/" + program, mode: 0o755, kind: tar.TypeReg, content: b})
	}
	for _, t := range targets {
		if t.link {
			files = append(files, file{name: "usr/local/bin/" + t.name, mode: 0o777, kind: tar.TypeSymlink, target: "sealbatch"})
		}
	}
	return files, nil
}

// authorities returns Mozilla's list as PEM. Those that it restricts in ways that PEM cannot say are left out.
func authorities() []byte {
	var b bytes.Buffer
	b.WriteString("# Mozilla's list of authorities (MPL 2.0), as golang.org/x/crypto/x509roots/fallback has it.\n")
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			// A write to memory does not fail.
			_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	return b.Bytes()
}

// layOut makes the files below a new directory.
func layOut(files []file, root string) error {
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(root, f.name)
		var err error
		switch f.kind {
		case tar.TypeDir:
			err = os.Mkdir(path, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(f.target, path)
		default:
			err = os.WriteFile(path, f.content, 0o600)
		}
		if err == nil && f.kind != tar.TypeSymlink {
			err = os.Chmod(path, (&tar.Header{Mode: f.mode}).FileInfo().Mode())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// layer returns the images' only layer. All is root's.
func layer(files []file, created time.Time) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Typeflag: f.kind, Size: int64(len(f.content)), Linkname: f.target, ModTime: created,
			Format: tar.FormatUSTAR}
		if f.kind == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}
