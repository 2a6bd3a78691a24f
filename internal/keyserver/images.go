package keyserver

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// otherImage returns why a job's image is none of those that a secret's policy names. What it looks at of
// the image's record never changes.
func (v *verdicts) otherImage(g getter, s secretRecord, m manifestRecord, images []string) (string, error) {
	if len(images) == 0 {
		return "", nil
	}
	if v.image == nil {
		rec, err := imageOf(g, m)
		if err != nil {
			return "", err
		}
		v.image = &rec
	}
	return outsideImages(images, s.Owner, *v.image), nil
}

// imageOf reads the record of a job's image, which a manifest names first.
func imageOf(g getter, m manifestRecord) (rec secretRecord, err error) {
	err = getJSON(g, bucketSecrets, m.Volumes[0].ID, &rec)
	if errors.Is(err, store.ErrNotFound) {
		return rec, noSecret(g, m.Volumes[0].ID, "is not deposited here")
	}
	return rec, err
}

// outsideImages returns why an image is none of those that a policy of the account owner names. A digest is
// the word of whoever sealed the image, so that it counts only if that was the same account.
func outsideImages(images []string, owner string, image secretRecord) string {
	switch {
	case image.Kind != manifest.KindImage:
		return "its policy names container images, and what the job has for one was not sealed as such"
	case slices.Contains(images, image.VolumeID):
		return ""
	case image.Image.IsZero() || !slices.Contains(images, image.Image.String()):
		return fmt.Sprintf("its policy does not name the job's container image (volume %s)", image.VolumeID)
	case image.Owner != owner:
		return fmt.Sprintf("its policy names the digest of the job's container image, which counts only for images that the data's "+
			"owner sealed; of this one (volume %s) it is somebody else's word", image.VolumeID)
	}
	return ""
}
