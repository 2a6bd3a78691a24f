package manifest

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"strings"
)

// HPCSFile pins a file that HPCS's client encrypted: with age, a tar.gz (KindDataset) or a SIF file (KindImage).
type HPCSFile struct {
	SHA512   string `json:"sha512"`             // of the whole file, 128 lower-case hex digits, as HPCS's info file has it
	Prepared string `json:"prepared,omitempty"` // of an image, as Image.Prepared
}

// NewHPCSFile pins the file with that SHA-512.
func NewHPCSFile(sum [sha512.Size]byte) *HPCSFile {
	return &HPCSFile{SHA512: hex.EncodeToString(sum[:])}
}

// Sum returns the file's SHA-512.
func (h HPCSFile) Sum() (sum [sha512.Size]byte, err error) {
	b, err := hex.DecodeString(h.SHA512)
	if err != nil || len(b) != len(sum) || strings.ToLower(h.SHA512) != h.SHA512 {
		return sum, fmt.Errorf("%w: %.20q is not a SHA-512 in lower-case hexadecimal", ErrInvalid, h.SHA512)
	}
	copy(sum[:], b)
	return sum, nil
}

// Digest returns what stands for the file's volume digest, with which its key is released: no sealed volume has the same, and a
// file has another as a dataset than as an image.
func (h HPCSFile) Digest(kind Kind) Digest {
	return DigestOf(fmt.Appendf(nil, "sealbatch HPCS file 1\n%s\n%s\n", kind, h.SHA512))
}

// validHPCS checks what is said of a file that HPCS encrypted.
func validHPCS(v VolumeRef) error {
	if v.HPCS == nil {
		return nil
	}
	if _, err := v.HPCS.Sum(); err != nil {
		return err
	}
	switch {
	case v.Kind != KindDataset && v.Kind != KindImage:
		return fmt.Errorf("%w: HPCS made no %.40q", ErrInvalid, v.Kind)
	case v.Digest != v.HPCS.Digest(v.Kind):
		return fmt.Errorf("%w: its digest is not that of kind and SHA-512", ErrInvalid)
	case v.Image != nil:
		return fmt.Errorf("%w: HPCS says of no file which image is in it", ErrInvalid)
	case v.HPCS.Prepared != "" && (v.Kind != KindImage || v.HPCS.Prepared != PreparedHPCS):
		return fmt.Errorf("%w: %s prepared by %.40q", ErrInvalid, v.Kind, v.HPCS.Prepared)
	}
	return nil
}
