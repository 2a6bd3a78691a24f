package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/text"
)

// The files of an OCI image layout (image-layout.md of the OCI's image specification),
// and the annotations under which an index.json has its images' names.
const (
	layoutFile = "oci-layout"
	indexFile  = "index.json"

	refName        = "org.opencontainers.image.ref.name" // a tag (skopeo, umoci, docker save), or all of the reference (podman, buildah)
	containerdName = "io.containerd.image.name"          // all of the reference (docker save)
)

// layout is an OCI image layout, in a directory or an archive. That of docker save has
// Docker's own manifest.json besides, which says less.
type layout struct{ files }

// isLayout reports whether f is one.
func isLayout(f files) bool {
	_, marked := has(f, layoutFile)
	_, indexed := has(f, indexFile)
	return marked && indexed
}

// names returns what the image of d is called in its index.json.
func names(d v1.Descriptor) []string {
	var out []string
	for _, key := range []string{containerdName, refName} {
		if n := d.Annotations[key]; n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// image returns the image that choice and the platform mean, and the choice.
func (l layout) image(ctx context.Context, choice, platform string) (*oci.Image, string, error) {
	raw, err := readFile(l, layoutFile, oci.MaxManifest)
	if err != nil {
		return nil, "", err
	}
	var version struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(raw, &version); err != nil || !strings.HasPrefix(version.Version, "1.") {
		return nil, "", fmt.Errorf("%w: its file %s names no version of the layout that is known", ErrFormat, layoutFile)
	}
	var index v1.IndexManifest
	if raw, err = readFile(l, indexFile, oci.MaxManifest); err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, "", fmt.Errorf("%w: its %s cannot be read: %s", ErrFormat, indexFile, text.Printable(err.Error()))
	}
	found, err := choose(index.Manifests, choice)
	if err != nil {
		return nil, "", err
	}
	img, err := l.resolve(ctx, found, platform)
	if err == nil && choice == "" && len(names(found[0])) > 0 {
		choice = ":" + names(found[0])[0]
	}
	return img, choice, err
}

// choose returns those of list that choice means: different ones are of different
// platforms, or it is not clear.
func choose(list []v1.Descriptor, choice string) ([]v1.Descriptor, error) {
	var found []v1.Descriptor
	switch {
	case choice == "" || choice == ":":
		found = list
	case strings.HasPrefix(choice, "@sha256:"):
		h, err := v1.NewHash(choice[1:])
		if err != nil {
			return nil, fault.New(fault.Usage, err, "a digest is sha256: and 64 hex digits")
		}
		found = []v1.Descriptor{{Digest: h}}
		if i := slices.IndexFunc(list, func(d v1.Descriptor) bool { return d.Digest == h }); i >= 0 {
			found[0] = list[i]
		}
	case choice[0] == '@':
		n, err := strconv.Atoi(choice[1:])
		if err != nil || n < 0 || n >= len(list) {
			return nil, noSuch(choice, allNames(list))
		}
		found = list[n : n+1]
	default:
		found = named(list, choice[1:])
	}
	if found = distinct(found); len(found) == 0 {
		return nil, noSuch(choice, allNames(list))
	}
	return found, differentNames(found, list, choice)
}

// differentNames refuses a choice that several images of list with names of their own answer to.
func differentNames(found, list []v1.Descriptor, choice string) error {
	if choice != "" && choice != ":" {
		return nil
	}
	for _, d := range found[1:] {
		if !slices.Equal(names(d), names(found[0])) {
			return ambiguous(allNames(list))
		}
	}
	return nil
}

// named returns those of list that are called want: word for word, or else by the same
// reference in Docker's reading, or by tag.
func named(list []v1.Descriptor, want string) []v1.Descriptor {
	for _, same := range []func(have string) bool{
		func(have string) bool { return have == want },
		func(have string) bool { return sameReference(have, want) },
		func(have string) bool { return strings.HasSuffix(have, ":"+want) && !strings.ContainsAny(want, ":/") },
	} {
		var found []v1.Descriptor
		for _, d := range list {
			if slices.ContainsFunc(names(d), same) {
				found = append(found, d)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// sameReference reports whether want is read as have: jp2a by Docker as docker.io/library/jp2a:latest, and by
// podman as localhost/jp2a:latest too.
func sameReference(have, want string) bool {
	x, err := name.ParseReference(have)
	if err != nil {
		return false
	}
	for _, w := range []string{want, "localhost/" + want} {
		if y, err := name.ParseReference(w); err == nil && x.Name() == y.Name() {
			return true
		}
	}
	return false
}

// distinct returns list with each digest once. Attestations are left out.
func distinct(list []v1.Descriptor) []v1.Descriptor {
	var out []v1.Descriptor
	for _, d := range list {
		if !slices.ContainsFunc(out, func(o v1.Descriptor) bool { return o.Digest == d.Digest }) && !oci.Attestation(d) {
			out = append(out, d)
		}
	}
	return out
}

// allNames returns what to write for each of list.
func allNames(list []v1.Descriptor) []string {
	var out []string
	for i, d := range list {
		switch n := names(d); {
		case len(n) > 0:
			out = append(out, n[0])
		default:
			out = append(out, "@"+strconv.Itoa(i))
		}
	}
	return out
}

// maxNamed is how many of an archive's images an error names.
const maxNamed = 12

func listed(names []string) string {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	more := ""
	if n := len(names) - maxNamed; n > 0 {
		names, more = names[:maxNamed], fmt.Sprintf(" and %d more", n)
	}
	return text.Printable(strings.Join(names, ", ")) + more
}

func ambiguous(names []string) error {
	return fault.New(fault.Usage, fmt.Errorf("it holds several images: %s", listed(names)),
		"say which: -b oci-archive:FILE:NAME or docker-archive:FILE:NAME, oci:DIRECTORY:NAME; FILE@0 is the first")
}

func noSuch(choice string, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("%w: it holds no image", ErrFormat)
	}
	err := fmt.Errorf("it holds no image %s", text.Printable(strings.TrimPrefix(choice, ":")))
	return fault.New(fault.Usage, err, "it holds "+listed(names))
}

// resolve returns the image among found that is of the platform. Two are one too many.
func (l layout) resolve(ctx context.Context, found []v1.Descriptor, platform string) (*oci.Image, error) {
	var taken *oci.Image
	var wrong error
	for _, d := range found {
		img, err := oci.Resolve(ctx, l.fetch, d, platform)
		switch {
		case errors.Is(err, oci.ErrPlatform):
			wrong = err
		case err != nil:
			return nil, err
		case taken != nil && taken.Digest != img.Digest:
			return nil, ambiguous([]string{"@" + taken.Digest, "@" + img.Digest})
		default:
			taken = img
		}
	}
	if taken == nil {
		return nil, wrong
	}
	return taken, l.checkLayers(taken)
}

// fetch is an oci.Fetch.
func (l layout) fetch(_ context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	return readFile(l, blobName(d), limit)
}

func blobName(d v1.Descriptor) string { return "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex }

// checkLayers finds out, before hours of work, that a layer is missing or cut off.
func (l layout) checkLayers(img *oci.Image) error {
	for _, d := range img.Manifest.Layers {
		r, size, err := l.open(blobName(d))
		if errors.Is(err, fs.ErrNotExist) {
			return fault.New(fault.Usage, fmt.Errorf("%w: its layer %s is missing", ErrFormat, d.Digest), missingHint(d))
		}
		if err != nil {
			return err
		}
		r.Close()
		if size != d.Size {
			return fmt.Errorf("%w: its layer %s has %d bytes, not %d", oci.ErrDigest, d.Digest, size, d.Size)
		}
	}
	return nil
}

func missingHint(d v1.Descriptor) string {
	if len(d.URLs) > 0 || !d.MediaType.IsDistributable() {
		return "it is one that registries do not pass on; an image with all of its layers is needed"
	}
	return "write it anew, with all of its layers"
}

// layer is an oci.Open.
func (l layout) layer(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	r, _, err := l.open(blobName(d))
	return r, err
}
