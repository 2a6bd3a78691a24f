package manifest

import (
	"crypto/sha512"
	"strings"
	"testing"
)

// TestHPCSFile: such a volume says what it is, and nothing else.
func TestHPCSFile(t *testing.T) {
	t.Parallel()
	good := func(kind Kind) VolumeRef {
		h := NewHPCSFile(sha512.Sum512([]byte("file")))
		return VolumeRef{Kind: kind, Name: "n", Path: "/scratch/n.tgz", VolumeID: strings.Repeat("ab", 16), Size: 7, HPCS: h, Digest: h.Digest(kind)}
	}
	image := good(KindImage)
	image.HPCS.Prepared = PreparedHPCS
	if err := (Manifest{Volumes: []VolumeRef{image, good(KindDataset)}}).validateVolumes(); err != nil {
		t.Error(err)
	}
	if image.Digest == good(KindDataset).Digest {
		t.Error("a dataset can be taken for an image")
	}
	for name, spoil := range map[string]func(v *VolumeRef){
		"kind":      func(v *VolumeRef) { v.Kind = KindResults; v.Digest = v.HPCS.Digest(v.Kind) },
		"as image":  func(v *VolumeRef) { v.Digest = v.HPCS.Digest(KindImage) },
		"upper":     func(v *VolumeRef) { v.HPCS.SHA512 = strings.ToUpper(v.HPCS.SHA512); v.Digest = v.HPCS.Digest(v.Kind) },
		"short":     func(v *VolumeRef) { v.HPCS.SHA512 = v.HPCS.SHA512[2:]; v.Digest = v.HPCS.Digest(v.Kind) },
		"checksum":  func(v *VolumeRef) { v.Checksum = v.Digest },
		"prepared":  func(v *VolumeRef) { v.HPCS.Prepared = PreparedHPCS },
		"image":     func(v *VolumeRef) { v.Image = &Image{} },
		"no digest": func(v *VolumeRef) { v.Digest = Digest{} },
		"sealed":    func(v *VolumeRef) { v.HPCS = nil },
	} {
		v := good(KindDataset)
		spoil(&v)
		if err := (Manifest{Volumes: []VolumeRef{good(KindImage), v}}).validateVolumes(); err == nil {
			t.Errorf("%s: valid", name)
		}
	}
}
