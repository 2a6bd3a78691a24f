package main

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"
)

// helloImage is an image of one file.
func helloImage(arch string) (v1.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o755, Size: 5})
	if err == nil {
		_, err = io.WriteString(w, "hello")
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture, config.Config.Entrypoint = "linux", arch, []string{"/hello"}
	return mutate.ConfigFile(img, config)
}

// cmdRegistry starts a registry on loopback, and sets REGISTRY to its address.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: registry")
	}
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(s.Close)
	ts.Setenv("REGISTRY", strings.TrimPrefix(s.URL, "http://"))
}

// cmdPush puts an image of one file into the registry, or an index that lists it: push NAME:TAG [index].
func cmdPush(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: push NAME:TAG [index]")
	}
	img, err := helloImage("amd64")
	ts.Check(err)
	ref, err := name.NewTag(ts.Getenv("REGISTRY") + "/" + args[0])
	ts.Check(err)
	if len(args) == 1 {
		ts.Check(remote.Write(ref, img))
		return
	}
	ts.Check(remote.WriteIndex(ref, mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})))
}

// cmdCosign makes a key pair as cosign does, NAME.key (which only looks encrypted) and NAME.pub, and signs what is in the registry,
// in cosign's older form: cosign generate NAME; cosign sign NAME REPOSITORY:TAG.
func cmdCosign(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: cosign generate NAME | cosign sign NAME REPOSITORY:TAG")
	}
	file := ts.MkAbs(args[1])
	if args[0] == "generate" {
		ts.Check(cosignPair(file))
		return
	}
	block, _ := pem.Decode([]byte(ts.ReadFile(args[1] + ".key")))
	key, err := x509.ParseECPrivateKey(block.Bytes)
	ts.Check(err)
	ref, err := name.NewTag(ts.Getenv("REGISTRY") + "/" + args[2])
	ts.Check(err)
	d, err := remote.Head(ref)
	ts.Check(err)
	payload := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"lab.example/tool"},"image":{"docker-manifest-digest":"%s"},`+
		`"type":"cosign container image signature"},"optional":null}`, d.Digest)
	sum := sha256.Sum256([]byte(payload))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	ts.Check(err)
	tag := ref.Context().Tag(strings.Replace(d.Digest.String(), ":", "-", 1) + ".sig")
	img, err := remote.Image(tag) // what others signed stays
	if err != nil {
		img = mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	}
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:       static.NewLayer([]byte(payload), "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)},
	})
	ts.Check(err)
	ts.Check(remote.Write(tag, img))
}

func cosignPair(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	public, perr := x509.MarshalPKIXPublicKey(key.Public())
	return errors.Join(err, perr,
		os.WriteFile(file+".key", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: private}), 0o600),
		os.WriteFile(file+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644))
}
