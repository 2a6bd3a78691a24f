package layers

import (
	"strings"

	"github.com/sealbatch/sealbatch/internal/inflate"
)

// The media types of layers: those of the OCI's image specification 1.1, and Docker's (image manifest version 2,
// schema 2; zstd as containerd writes it).
var mediaTypes = map[string]inflate.Format{
	"application/vnd.oci.image.layer.v1.tar":            inflate.None,
	"application/vnd.oci.image.layer.v1.tar+gzip":       inflate.Gzip,
	"application/vnd.oci.image.layer.v1.tar+zstd":       inflate.Zstd,
	"application/vnd.docker.image.rootfs.diff.tar":      inflate.None,
	"application/vnd.docker.image.rootfs.diff.tar.gzip": inflate.Gzip,
	"application/vnd.docker.image.rootfs.diff.tar.zstd": inflate.Zstd,
}

// CheckMediaType returns nil if layers of a media type can be read, and else says why not; "" is fine: content
// tells. The errors are ErrEncrypted, ErrForeign and ErrMediaType.
func CheckMediaType(mediaType string) error {
	_, known := mediaTypes[mediaType]
	switch {
	case known || mediaType == "":
		return nil
	case strings.HasSuffix(mediaType, "+encrypted"):
		return refuse(ErrEncrypted, "", "it is encrypted (%s)", quoted(mediaType))
	case strings.Contains(mediaType, ".nondistributable.") || strings.Contains(mediaType, ".rootfs.foreign."):
		return refuse(ErrForeign, "", "it may not be distributed, so that registries and archives do not hold it (%s)",
			quoted(mediaType))
	}
	return refuse(ErrMediaType, "", "it is of the unknown kind %s; tar archives are read, plain, or compressed with "+
		"gzip or zstd", quoted(mediaType))
}

// tarMagic is where the headers of all tar archives of this century have "ustar" (POSIX ustar, pax, GNU tar).
const (
	tarMagic   = "ustar"
	tarMagicAt = 257
)

// formatOf returns how a blob is compressed that begins like this. Its media type says so; where the content does not
// bear that out, as with mislabelled layers, which Docker and containerd read, or nothing is said, content tells.
func formatOf(mediaType string, begin []byte) inflate.Format {
	seen := inflate.Detect(begin)
	if len(begin) >= tarMagicAt+len(tarMagic) && string(begin[tarMagicAt:tarMagicAt+len(tarMagic)]) == tarMagic {
		seen = inflate.None // whatever the first name begins with
	}
	if said, ok := mediaTypes[mediaType]; ok && said == inflate.None && seen != inflate.Gzip && seen != inflate.Zstd {
		return said
	}
	return seen
}
