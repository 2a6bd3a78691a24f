// Package hpcs reads what HPCS's client prepared: the encrypted file of a dataset or of an image, and the info file beside it.
//
//	encrypted_NAME.tgz           age, of a tar.gz with the directory NAME
//	encrypted_prepared_NAME.sif  age, of a SIF file
//	FILE.info.yaml               info: path_at_rest, secret_path, access_role, checksum (SHA-512 of FILE, bare hex), spiffeID
//
// (client/data_preparation/prepare_data.py, client/container_preparation/lib/image_build.py and utils/ship_a_key.py of HPCS.)
// Info files have no signature: what vouches for a file is the age key, whose public half HPCS gives to nobody, and the
// checksum, by which a file is found to be damaged. Files are decrypted as they are read, and never written decrypted.
package hpcs

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"

	"filippo.io/age"
	"go.yaml.in/yaml/v3"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// InfoSuffix ends the names of info files.
const InfoSuffix = ".info.yaml"

// Bounds of what is read whole, in bytes.
const (
	maxInfo = 64 << 10
	maxKey  = 4096
)

// Errors that callers test.
var (
	ErrInfo     = errors.New("not an info file of HPCS's")
	ErrKey      = errors.New("not a key of HPCS's")
	ErrChecksum = errors.New("SHA-512 is not the one that the info file says")
	ErrDamaged  = errors.New("damaged or cut off")
	errNoKey    = errors.New("no key that opens it")
)

// Info is what an info file says.
type Info struct {
	PathAtRest string // of the encrypted file, at the site
	SecretPath string // of the key, in Vault's KV store "kv"
	Checksum   [sha512.Size]byte
}

// ParseInfo reads an info file. Keys that HPCS does not write are ErrInfo; those for its SPIRE and Vault may be missing, since
// nothing is asked of these.
func ParseInfo(b []byte) (Info, error) {
	var f struct {
		Info struct {
			PathAtRest string `yaml:"path_at_rest"`
			SecretPath string `yaml:"secret_path"`
			AccessRole string `yaml:"access_role"`
			Checksum   string `yaml:"checksum"`
			SpiffeID   string `yaml:"spiffeID"`
		} `yaml:"info"`
	}
	if len(b) > maxInfo {
		return Info{}, fmt.Errorf("%w: it is larger than %d bytes", ErrInfo, maxInfo)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrInfo, err)
	}
	in := Info{PathAtRest: path.Clean(f.Info.PathAtRest), SecretPath: f.Info.SecretPath}
	if !path.IsAbs(f.Info.PathAtRest) {
		return Info{}, fmt.Errorf("%w: path_at_rest %.80q is no absolute path", ErrInfo, f.Info.PathAtRest)
	}
	sum, err := hex.DecodeString(f.Info.Checksum)
	if err != nil || len(sum) != len(in.Checksum) {
		return Info{}, fmt.Errorf("%w: checksum %.20q is no SHA-512 in hexadecimal", ErrInfo, f.Info.Checksum)
	}
	copy(in.Checksum[:], sum)
	return in, nil
}

// ReadKey reads the file of an age key, which only its owner may be able to read.
func ReadKey(file string) (*age.X25519Identity, error) {
	b, err := trusted.ReadSecret(file, maxKey)
	if err != nil {
		return nil, fmt.Errorf("HPCS's key: %w", err)
	}
	defer clear(b)
	ids, err := age.ParseIdentities(bytes.NewReader(b))
	if err == nil && len(ids) == 1 {
		if id, ok := ids[0].(*age.X25519Identity); ok {
			return id, nil
		}
	}
	// What age says of a line may have the line in it.
	return nil, fault.New(fault.Usage, fmt.Errorf("%s: %w: it has to hold one line AGE-SECRET-KEY-1..., and nothing else", file, ErrKey),
		HintKey(""))
}

// HintKey says where the key of a file is; secret is the info file's secret_path, "" if that is not known. Nobody vouches
// for info files: what they say is quoted, since people paste this.
func HintKey(secret string) string {
	if secret == "" {
		secret = "SECRET_PATH"
	}
	return "HPCS keeps the key in Vault: vault kv get -mount=kv -field=key " + shellwords.QuoteArgs(secret) + " >FILE, by whoever may read it there; chmod 600 FILE"
}

// Name returns what was packed into a file that HPCS called file: "jp2a" for "encrypted_prepared_jp2a.sif".
func Name(file string) string {
	name := strings.TrimPrefix(path.Base(file), "encrypted_")
	if image, ok := strings.CutSuffix(name, ".sif"); ok {
		return strings.TrimPrefix(image, "prepared_")
	}
	return strings.TrimSuffix(name, ".tgz")
}
