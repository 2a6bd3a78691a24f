package keyserver_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/evidence/token"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// depositImage makes up a sealed image of that digest, by the owner's word, which bob may run.
func (s *site) depositImage(t *testing.T, owner ssh.Signer, digest manifest.Digest) keyservertest.Volume {
	t.Helper()
	v := keyservertest.NewVolume(t, keyservertest.RandomHex(8), manifest.KindImage, keyservertest.Policy("bob"))
	v.Secret.Image = digest
	if _, err := s.Client(t, owner).PutSecret(t.Context(), v.ID, v.Secret); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestPinnedImages: data whose policy names images is released to jobs of these alone. That a sealed image is the one
// of a digest is the word of who sealed it, which nobody can give for data of others.
func TestPinnedImages(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	pinned, other := manifest.DigestOf([]byte("good")), manifest.DigestOf([]byte("other"))
	own := s.depositImage(t, s.alice, pinned)
	claimed := s.depositImage(t, s.bob, pinned) // bob says so
	foreign := s.depositImage(t, s.alice, other)
	unsaid := s.depositImage(t, s.alice, manifest.Digest{})
	data := func(images ...string) keyservertest.Volume {
		p := keyservertest.Policy("bob")
		p.Images = images
		return s.Deposit(t, s.alice, keyservertest.RandomHex(8), manifest.KindDataset, p)
	}
	var jobs atomic.Uint32
	posing := data() // a dataset in the image's place
	for name, c := range map[string]struct {
		images []string
		image  keyservertest.Volume
		says   string // "" if the keys are released
	}{
		"any image":                   {nil, claimed, ""},
		"the digest":                  {[]string{pinned.String()}, own, ""},
		"one of several digests":      {[]string{other.String(), pinned.String()}, own, ""},
		"another digest":              {[]string{pinned.String()}, foreign, "does not name the job's container image"},
		"no digest":                   {[]string{pinned.String()}, unsaid, "does not name the job's container image"},
		"the digest, by others' word": {[]string{pinned.String()}, claimed, "it is somebody else's word"},
		"the sealed image":            {[]string{claimed.ID}, claimed, ""},
		"another sealed image":        {[]string{claimed.ID}, own, "does not name the job's container image"},
		"a dataset for an image":      {[]string{posing.ID}, posing, "was not sealed as such"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := data(c.images...)
			_, b := s.Manifest(t, func(m *manifest.Manifest) { m.User = "bob" }, c.image, d)
			_, foreseen := s.Client(t, s.bob).RegisterJob(t.Context(), b, keyservertest.Sign(t, s.bob, manifest.NamespaceManifest, b),
				keyservertest.PrivateOf(t, b), keyapi.Expect{})
			m, b := s.Manifest(t, func(m *manifest.Manifest) { m.User = "bob" }, c.image, d)
			digest := s.Register(t, s.bob, b)
			tok, err := s.Client(t, s.bob).NewToken(t.Context(), digest, "cn1")
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Client(t, nil).Release(t.Context(), keyclient.ReleaseRequest{
				Manifest: m, Digest: digest, Job: s.job(jobs.Add(1)), Node: "cn1", Attest: token.Attest(tok.Token)})
			for _, err := range []error{foreseen, err} {
				switch {
				case c.says == "" && err != nil:
					t.Errorf("refused: %v", err)
				case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
					t.Errorf("%v does not say %q", err, c.says)
				}
			}
		})
	}
}

// TestImageClaims: a manifest, and with it a receipt, cannot call an image what its owner does not call it.
func TestImageClaims(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	image := s.depositImage(t, s.alice, manifest.DigestOf([]byte("good")))
	says := func(d manifest.Digest) error {
		_, b := s.Manifest(t, func(m *manifest.Manifest) {
			m.Volumes[0].Image = &manifest.Image{Reference: "x", Digest: d, Of: manifest.OfManifest, Platform: "linux/amd64"}
		}, image)
		_, err := s.Client(t, s.alice).RegisterManifest(t.Context(), b, keyservertest.Sign(t, s.alice, manifest.NamespaceManifest, b),
			keyservertest.PrivateOf(t, b))
		return err
	}
	if err := says(image.Secret.Image); err != nil {
		t.Errorf("the owner's own word: %v", err)
	}
	if err := says(manifest.DigestOf([]byte("other"))); !errors.Is(err, keyclient.ErrPolicy) {
		t.Errorf("another image: %v", err)
	}
	dataset := keyservertest.NewVolume(t, "data", manifest.KindDataset, keyservertest.Policy("bob"))
	dataset.Secret.Image = image.Secret.Image
	if _, err := s.Client(t, s.alice).PutSecret(t.Context(), dataset.ID, dataset.Secret); err == nil {
		t.Error("a dataset was deposited as an image")
	}
	again := image.Secret
	again.Image, again.Key = manifest.DigestOf([]byte("other")), image.Key
	if _, err := s.Client(t, s.alice).PutSecret(t.Context(), image.ID, again); !errors.Is(err, keyclient.ErrConflict) {
		t.Errorf("the same volume as another image: %v", err)
	}
	if info, err := s.Client(t, s.alice).GetSecret(t.Context(), image.ID); err != nil || info.Image != image.Secret.Image {
		t.Errorf("the owner sees image %s, %v", info.Image, err)
	}
}
