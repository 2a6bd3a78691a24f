package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/layers"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/text"
)

// dockerArchive is what docker save wrote before Docker 25, and podman save, skopeo,
// kaniko and others write still:
//
//	manifest.json    [{"Config": "HEX.json", "RepoTags": ["jp2a:latest"], "Layers": ["ID/layer.tar", ...]}, ...]
//	HEX.json         a config; HEX is its digest
//	ID/layer.tar     a layer, or a symbolic link to another's; as a rule not compressed
//
// No digest of a layer's blob is in it: the config's diff ids say what the layers are.
type dockerArchive struct{ files }

const dockerManifest = "manifest.json"

// dockerImage is an element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// image returns the image that choice means, as far as o's platform allows, and the choice.
func (a dockerArchive) image(choice, platform string) (*Image, string, error) {
	raw, err := readFile(a, dockerManifest, oci.MaxManifest)
	if err != nil {
		return nil, "", err
	}
	var list []dockerImage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, "", fmt.Errorf("%w: its %s cannot be read: %s", ErrFormat, dockerManifest, text.Printable(err.Error()))
	}
	e, err := a.choose(list, choice)
	if err != nil {
		return nil, "", err
	}
	img, err := a.read(e, platform)
	if err == nil && choice == "" && len(e.RepoTags) > 0 {
		choice = ":" + e.RepoTags[0]
	}
	return img, choice, err
}

// choose returns the one of list that choice means.
func (a dockerArchive) choose(list []dockerImage, choice string) (dockerImage, error) {
	var found []dockerImage
	want := strings.TrimPrefix(choice, ":")
	n, err := strconv.Atoi(strings.TrimPrefix(choice, "@"))
	switch {
	case want == "":
		found = list
	case strings.HasPrefix(choice, "@sha256:"):
		found = slices.DeleteFunc(slices.Clone(list), func(e dockerImage) bool { return "@sha256:"+hexIn(e.Config) != choice })
	case choice[0] == '@' && err == nil && n >= 0 && n < len(list):
		found = list[n : n+1]
	case choice[0] != '@':
		found = slices.DeleteFunc(slices.Clone(list), func(e dockerImage) bool {
			return !slices.ContainsFunc(e.RepoTags, func(have string) bool { return have == want || sameReference(have, want) })
		})
	}
	var tags []string
	for i, e := range list {
		if tags = append(tags, e.RepoTags...); len(e.RepoTags) == 0 {
			tags = append(tags, "@"+strconv.Itoa(i))
		}
	}
	if len(found) == 0 {
		return dockerImage{}, noSuch(choice, tags)
	}
	for _, e := range found[1:] {
		if e.Config != found[0].Config {
			return dockerImage{}, ambiguous(tags)
		}
	}
	return found[0], nil
}

var hexRE = regexp.MustCompile(`(?:^|[^0-9a-f])([0-9a-f]{64})(?:$|[^0-9a-f])`)

// hexIn returns the sha256 digest that the name of a file carries, or "".
func hexIn(name string) string {
	if m := hexRE.FindStringSubmatch(path.Base(name)); m != nil {
		return m[1]
	}
	return ""
}

// read returns the image of e.
func (a dockerArchive) read(e dockerImage, platform string) (*Image, error) {
	raw, err := readFile(a, e.Config, oci.MaxConfig)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	id := hex.EncodeToString(sum[:])
	if want := hexIn(e.Config); want != "" && want != id {
		return nil, fmt.Errorf("%w: its config %s has digest sha256:%s", oci.ErrDigest, text.Printable(e.Config), id)
	}
	config, err := oci.ParseConfig(raw)
	if err != nil {
		return nil, err
	}
	want, err := oci.ParsePlatform(platform)
	if err != nil {
		return nil, err
	}
	have := oci.PlatformOf(config, want)
	if err := oci.CheckPlatform(platform, have); err != nil {
		return nil, err
	}
	img := &Image{Digest: "sha256:" + id, DigestOf: OfConfig, Platform: have, Config: config, RawConfig: raw}
	img.Layers, err = a.layers(e.Layers, config.RootFS.DiffIDs)
	return img, err
}

// layers returns the layers in the files paths.
func (a dockerArchive) layers(paths []string, ids []v1.Hash) ([]layers.Layer, error) {
	if len(paths) != len(ids) {
		return nil, fmt.Errorf("%w: its %s has %d layers, and its config %d", ErrFormat, dockerManifest, len(paths), len(ids))
	}
	out := make([]layers.Layer, len(paths))
	for i, p := range paths {
		r, size, err := a.open(p)
		if errors.Is(err, fs.ErrNotExist) {
			err := fmt.Errorf("%w: its layer %s is missing", ErrFormat, text.Printable(p))
			return nil, fault.New(fault.Usage, err, "write it anew, with all of its layers")
		}
		if err != nil {
			return nil, err
		}
		r.Close()
		out[i] = layers.Layer{DiffID: ids[i].String(), Size: size, Open: func(context.Context) (io.ReadCloser, error) {
			r, _, err := a.open(p)
			return r, err
		}}
		if blob, ok := strings.CutPrefix(path.Clean(p), "blobs/sha256/"); ok && hexIn(blob) == blob {
			out[i].Digest = "sha256:" + blob
		}
	}
	return out, nil
}
