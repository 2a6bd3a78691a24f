package volume

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"strings"

	"github.com/rfjakob/eme"
)

// The on-disk format of gocryptfs v2 (its internal/contentenc, nametransform
// and cryptocore packages), in the variant that `gocryptfs -masterkey` uses:
// AES-256-GCM with 16-byte nonces, HKDF, EME names in unpadded base64url, long
// names hashed.
const (
	plainBlock  = 4096
	nonceSize   = 16
	tagSize     = 16
	overhead    = nonceSize + tagSize
	cipherBlock = plainBlock + overhead

	fileIDSize    = 16
	headerSize    = 2 + fileIDSize // version, file id
	headerVersion = 2

	dirIVSize = 16
	dirIVName = "gocryptfs.diriv"
	confName  = "gocryptfs.conf"

	longPrefix = "gocryptfs.longname."
	longSuffix = ".name"

	maxName = 255
	// maxTarget is the longest symlink target whose encrypted form still fits
	// Linux's PATH_MAX (4096 with the final NUL) when it is unpacked.
	maxTarget = 4095*3/4 - overhead
	// maxFileSize keeps every offset computation far from overflow.
	maxFileSize = 1 << 60
)

// HKDF-SHA256 info strings. The first two are gocryptfs's.
const (
	infoContent = "AES-GCM file content encryption"
	infoNames   = "EME filename encryption"
	infoIndex   = "sealbatch index v1"
	infoFileID  = "sealbatch file id v1"
	infoDir     = "sealbatch cipher directory index v1"
)

// nameEncoding is gocryptfs's Raw64; Strict refuses stray padding bits.
var nameEncoding = base64.RawURLEncoding.Strict()

type fileID [fileIDSize]byte

// codec holds what a master key is expanded to.
type codec struct {
	content cipher.AEAD // nonceSize nonces
	names   *eme.EMECipher
	index   cipher.AEAD // 12-byte nonces
	dir     cipher.AEAD // the same, for the index of a cipher directory
	idKey   []byte
}

func newCodec(key Key) (*codec, error) {
	if key.IsZero() {
		return nil, fmt.Errorf("%w: no key, or it was wiped", ErrKey)
	}
	var sub [5][]byte
	for i, info := range []string{infoContent, infoNames, infoIndex, infoDir, infoFileID} {
		k, err := hkdf.Key(sha256.New, key.s.b[:], nil, info, KeySize)
		if err != nil {
			return nil, fmt.Errorf("derive a key: %w", err)
		}
		sub[i] = k
	}
	var blocks [4]cipher.Block
	for i := range blocks {
		b, err := aes.NewCipher(sub[i])
		if err != nil {
			return nil, fmt.Errorf("derive a key: %w", err)
		}
		clear(sub[i])
		blocks[i] = b
	}
	content, err := cipher.NewGCMWithNonceSize(blocks[0], nonceSize)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	index, err := cipher.NewGCM(blocks[2])
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	dir, err := cipher.NewGCM(blocks[3])
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	return &codec{content: content, names: eme.New(blocks[1]), index: index, dir: dir, idKey: sub[4]}, nil
}

// idMaker computes file ids. It is not safe for concurrent use.
type idMaker struct {
	mac hash.Hash
	sum [sha256.Size]byte
	num [8]byte
}

func (c *codec) newIDMaker() *idMaker { return &idMaker{mac: hmac.New(sha256.New, c.idKey)} }

// id returns the gocryptfs file id of a node: derived, so that the index need not
// store it and a file cannot be put in another's place.
func (m *idMaker) id(node uint32) (id fileID) {
	binary.BigEndian.PutUint64(m.num[:], uint64(node))
	m.mac.Reset()
	m.mac.Write(m.num[:])
	copy(id[:], m.mac.Sum(m.sum[:0]))
	return id
}

// additional is a block's additional data: its number and its file's id.
type additional [8 + fileIDSize]byte

func (a *additional) set(block uint64, id fileID) []byte {
	binary.BigEndian.PutUint64(a[:], block)
	copy(a[8:], id[:])
	return a[:]
}

func putFileHeader(dst []byte, id fileID) {
	binary.BigEndian.PutUint16(dst, headerVersion)
	copy(dst[2:], id[:])
}

// parseFileHeader reads a gocryptfs file header.
func parseFileHeader(b []byte) (fileID, error) {
	if v := binary.BigEndian.Uint16(b); v != headerVersion {
		return fileID{}, fmt.Errorf("%w: file header version %d", ErrBlock, v)
	}
	id := fileID(b[2:headerSize])
	if id == (fileID{}) {
		return fileID{}, fmt.Errorf("%w: file id is all zeros", ErrBlock)
	}
	return id, nil
}

// cipherSize returns the length of a file's ciphertext: nothing for an empty file,
// else a header and the blocks.
func cipherSize(plain int64) int64 {
	if plain == 0 {
		return 0
	}
	return headerSize + plain + blocksOf(plain)*overhead
}

// blocksOf returns how many blocks a file has.
func blocksOf(plain int64) int64 { return (plain + plainBlock - 1) / plainBlock }

// plainSize inverts cipherSize. A bare header counts as an empty file, as
// gocryptfs leaves one when it is interrupted. ErrSize if no file has that size.
func plainSize(size int64) (int64, error) {
	if size == 0 || size == headerSize {
		return 0, nil
	}
	full, tail := (size-headerSize)/cipherBlock, (size-headerSize)%cipherBlock
	if size < headerSize || (tail > 0 && tail <= overhead) {
		return 0, fmt.Errorf("%w: %d bytes of ciphertext end inside a block", ErrSize, size)
	}
	if tail > 0 {
		tail -= overhead
	}
	return full*plainBlock + tail, nil
}

// checkName refuses what no directory entry can be called.
func checkName(name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return fmt.Errorf("%w: %q", ErrName, name)
	case len(name) > maxName:
		return fmt.Errorf("%w: %d bytes, %d are allowed", ErrName, len(name), maxName)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%w: contains a slash or NUL", ErrName)
	}
	return nil
}

// checkTarget refuses symlink targets that cannot exist or be unpacked.
func checkTarget(target string) error {
	switch {
	case target == "":
		return fmt.Errorf("%w: empty symbolic link target", ErrName)
	case len(target) > maxTarget:
		return fmt.Errorf("%w: a symbolic link target of %d bytes, %d are allowed", ErrName, len(target), maxTarget)
	case strings.Contains(target, "\x00"):
		return fmt.Errorf("%w: a symbolic link target contains NUL", ErrName)
	}
	return nil
}

// cipherName encrypts a file name. If the result is too long for a directory
// entry, the entry is called by its hash and long is the content of the entry
// that lies beside it under that name plus longSuffix.
func (c *codec) cipherName(name string, iv []byte) (entry, long string) {
	padding := aes.BlockSize - len(name)%aes.BlockSize
	padded := append([]byte(name), bytes.Repeat([]byte{byte(padding)}, padding)...)
	encoded := nameEncoding.EncodeToString(c.names.Encrypt(iv, padded))
	if len(encoded) <= maxName {
		return encoded, ""
	}
	return hashLongName(encoded), encoded
}

func hashLongName(encoded string) string {
	sum := sha256.Sum256([]byte(encoded))
	return longPrefix + nameEncoding.EncodeToString(sum[:])
}

// plainName decrypts a file name (the content of the name file for a long one).
func (c *codec) plainName(encoded string, iv []byte) (string, error) {
	// The decoder skips line breaks, which would give one name two spellings.
	if strings.ContainsAny(encoded, "\r\n") {
		return "", fmt.Errorf("%w: line break in an encrypted name", ErrName)
	}
	raw, err := nameEncoding.DecodeString(encoded)
	if err != nil || len(raw) == 0 || len(raw)%aes.BlockSize != 0 || len(raw) > maxName+1 {
		return "", fmt.Errorf("%w: an encrypted name has the wrong form", ErrName)
	}
	raw = c.names.Decrypt(iv, raw)
	padding := int(raw[len(raw)-1])
	if padding == 0 || padding > aes.BlockSize || padding >= len(raw) {
		return "", fmt.Errorf("%w: an encrypted name does not decrypt", ErrName)
	}
	name, tail := raw[:len(raw)-padding], raw[len(raw)-padding:]
	if !bytes.Equal(tail, bytes.Repeat([]byte{byte(padding)}, padding)) {
		return "", fmt.Errorf("%w: an encrypted name does not decrypt", ErrName)
	}
	return string(name), checkName(string(name))
}

// cipherTarget encrypts a symlink target: one block, number 0, no file id.
func (c *codec) cipherTarget(target string, nonce []byte) string {
	sealed := c.content.Seal(append([]byte(nil), nonce...), nonce, []byte(target), make([]byte, 8))
	return nameEncoding.EncodeToString(sealed)
}

func (c *codec) plainTarget(encoded string) (string, error) {
	raw, err := nameEncoding.DecodeString(encoded)
	if err != nil || len(raw) <= overhead || strings.ContainsAny(encoded, "\r\n") {
		return "", fmt.Errorf("%w: an encrypted symbolic link has the wrong form", ErrBlock)
	}
	target, err := c.content.Open(nil, raw[:nonceSize], raw[nonceSize:], make([]byte, 8))
	if err != nil {
		return "", fmt.Errorf("%w: a symbolic link does not decrypt", ErrBlock)
	}
	return string(target), checkTarget(string(target))
}
