// Package registry reads container images from registries that speak the OCI's
// distribution specification, as Docker Hub, ghcr.io, quay.io and Harbor do.
//
//	reference ──▶ mirrors, registry ──▶ digest ──▶ manifest, config     Open, which fetches nothing else
//	              (package keychain's logins)          │
//	                                                   ▼
//	                                  layers ──▶ spool ──▶ readers      the first Open of a layer fetches all of them
//
// A tag is resolved once; what follows is asked for by digest, and held against it and the size that the
// manifest says. The greeting, logins and tokens are go-containerregistry's; what it may send where
// is watched by wire (wire.go). Each layer is fetched once, several at a time, into an encrypted spool
// (package spool), from which it may be read as often as wanted. A connection that breaks goes on
// where it broke (blob.go), with the next mirror or the registry itself if need be.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealbatch/sealbatch/internal/layers"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/progress"
)

// Options say how a registry is reached. The zero value is what people expect.
type Options struct {
	Platform string   // "linux/arm64"; "" is oci.DefaultPlatform
	Mirrors  []Mirror // asked before the registries that they mirror, in order
	SpoolDir string   // where the encrypted spool of layers lies; "" is os.TempDir
	Parallel int      // how many layers are fetched at a time; 0 is 3

	Proxy    func(*http.Request) (*url.URL, error) // nil is http.ProxyFromEnvironment
	Getenv   func(string) string                   // where logins and authorities are looked for; nil is os.Getenv
	Stall    time.Duration                         // how long nothing may come; 0 is 30 seconds
	Progress progress.Starter
	Log      *slog.Logger

	// For tests: the wait after the first failure, and what waits.
	firstWait time.Duration
	sleep     func(ctx context.Context, d time.Duration) error
}

const (
	defaultParallel = 3
	defaultStall    = 30 * time.Second
)

func (o Options) withDefaults() Options {
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Stall <= 0 {
		o.Stall = defaultStall
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Remote is one image of one platform in a registry.
type Remote struct {
	*oci.Image           // digest, platform, manifest and config
	Reference  Reference // as it was asked for
	// Resolved is the digest that the reference stood for: the image's own, or that of
	// an index that lists it.
	Resolved string
	// Layers read from the spool. Their Open fetches all of them at first, and waits until its own is
	// whole and checked.
	Layers []layers.Layer

	o       Options
	sources []*source // mirrors, and last the registry
	root    document
	fetches *fetches
	hosts   *hosts
}

// Open finds the image that ref means (see ParseReference), and fetches its manifest and its config.
// ctx is in force until Close, which has to be called.
func Open(ctx context.Context, ref string, o Options) (*Remote, error) {
	parsed, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	r := &Remote{Reference: parsed, o: o.withDefaults()}
	if r.sources, err = r.places(); err != nil {
		return nil, err
	}
	r.fetches = newFetches(ctx, r)
	if err := r.resolve(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("image %s: %w", parsed, err), r.Close())
	}
	return r, nil
}

// places returns where the image may be, with the logins for it.
func (r *Remote) places() (all []*source, err error) {
	if all, err = r.wanted(); err != nil {
		return nil, err
	}
	r.hosts = &hosts{proxy: r.o.Proxy, getenv: r.o.Getenv, stall: r.o.Stall}
	keys := keychain{getenv: r.o.Getenv, uid: os.Getuid(), log: r.o.Log}
	for _, s := range all {
		s.hosts = r.hosts
		if s.login, err = keys.find(s.repo); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// resolve finds the digest, and follows it to the image.
func (r *Remote) resolve(ctx context.Context) (err error) {
	if r.root, err = r.manifest(ctx, r.Reference.identifier()); err != nil {
		return err
	}
	r.Resolved = r.root.Digest.String()
	if r.Image, err = oci.Resolve(ctx, r.document, r.root.Descriptor, r.o.Platform); err != nil {
		return err
	}
	r.Layers = r.Image.Layers(func(ctx context.Context, d v1.Descriptor) (io.ReadCloser,
		error) {
		return r.fetches.open(ctx, d)
	})
	return nil
}

// Close ends what is being fetched, and gives back the spool.
func (r *Remote) Close() error {
	err := r.fetches.close()
	r.hosts.close()
	return err
}
