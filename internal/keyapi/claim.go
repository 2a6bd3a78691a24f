package keyapi

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// MungePrefix starts the text that a node puts into its MUNGE credential.
const MungePrefix = "sealbatch-munge-v1"

// ClaimDigest is what evidence must cover: SHA-256 over the length-prefixed
// fields of a claim made to one service, each with a 4-byte big-endian length
// before it. Field order is fixed; numbers are decimal text.
func ClaimDigest(service string, c Claim) [sha256.Size]byte {
	h := sha256.New()
	for _, f := range [][]byte{
		[]byte(MungePrefix), []byte(service), c.Nonce, c.E, c.S, []byte(c.Job.Cluster),
		fmt.Append(nil, c.Job.ID), fmt.Append(nil, c.Job.ArrayTask), fmt.Append(nil, c.Job.Restart),
		[]byte(c.Node), []byte(c.Manifest.String()),
	} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(f)))
		h.Write(n[:])
		h.Write(f)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// MungePayload is the text that a node puts into its MUNGE credential: the claim's
// digest, 83 bytes in all.
func MungePayload(service string, c Claim) []byte {
	d := ClaimDigest(service, c)
	return []byte(MungePrefix + " " + hex.EncodeToString(d[:]))
}

// ReleaseInfo is the HPKE info string of a release: it binds the sealed keys
// to the service and the claim they were released for.
func ReleaseInfo(service string, c Claim) []byte {
	d := ClaimDigest(service, c)
	return append([]byte("sealbatch-release-v1\x00"), d[:]...)
}

// SecretPath is the info file's secret_path for a volume.
func SecretPath(volumeID string) string { return "sealbatch/" + volumeID }
