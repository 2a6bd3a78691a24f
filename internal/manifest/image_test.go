package manifest

import (
	"errors"
	"strings"
	"testing"
)

func TestImageInfoRoundTrip(t *testing.T) {
	t.Parallel()
	b, err := testImageInfo().Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseInfo(b)
	if err != nil {
		t.Fatal(err)
	}
	if *got.Image.Base != *testImage().Base || *got.Image.SBOM != *testImage().SBOM || got.Image.SignedBy != testImage().SignedBy ||
		got.Image.String() != testImage().String() || got.Image.Of != OfManifest {
		t.Errorf("read %+v", got.Image)
	}
	for _, part := range []string{"docker.io/talinx/jp2a:latest", digest(9).String(), "linux/amd64", "signed by the key " + digest(11).String(),
		"sbom.spdx.json " + digest(12).String()} {
		if !strings.Contains(got.Image.String(), part) {
			t.Errorf("%q does not say %q", got.Image, part)
		}
	}
}

// TestImageRefuses: what stands in an info file, a manifest and a receipt is shown on terminals and compared by policies.
func TestImageRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Info){
		"an image in a dataset":    func(i *Info) { i.Kind = KindDataset },
		"no reference":             func(i *Info) { i.Image.Reference = "" },
		"a reference that steers":  func(i *Info) { i.Image.Reference = "jp2a\x1b[2J" },
		"a reference without end":  func(i *Info) { i.Image.Reference = strings.Repeat("a", maxReference+1) },
		"no digest":                func(i *Info) { i.Image.Digest = Digest{} },
		"a digest of something":    func(i *Info) { i.Image.Of = "index" },
		"no platform":              func(i *Info) { i.Image.Platform = "" },
		"a platform of one word":   func(i *Info) { i.Image.Platform = "amd64" },
		"a platform of four words": func(i *Info) { i.Image.Platform = "linux/arm64/v8/x" },
		"a base that steers":       func(i *Info) { i.Image.Base.Reference = "\u202e" },
		"a path as SBOM's name":    func(i *Info) { i.Image.SBOM.Name = "../sbom" },
		"an SBOM without digest":   func(i *Info) { i.Image.SBOM.Digest = Digest{} },
		"a pin that is a name":     func(i *Info) { i.Policy.Images = []string{"talinx/jp2a"} },
		"a pin of zeros":           func(i *Info) { i.Policy.Images = []string{Digest{}.String()} },
		"a pin in upper case":      func(i *Info) { i.Policy.Images = []string{strings.ToUpper(testID)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := testImageInfo()
			change(&i)
			if err := i.Validate(); !errors.Is(err, ErrInvalid) {
				t.Errorf("Validate = %v, want ErrInvalid", err)
			}
		})
	}
	m := testManifest()
	m.Volumes[1].Image = testImage()
	if err := m.Validate(); !errors.Is(err, ErrInvalid) {
		t.Errorf("a manifest with an image in a dataset: %v", err)
	}
}
