package setup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/slotstore"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// KeyService is where a key service's files are, and who it is. CA is for
// clients' ca-cert; MasterKey lies outside Data on purpose.
type KeyService struct {
	Certificates
	Config         string // server.conf
	MasterKey      string // 64 hex digits
	Data           string // directory, 0700
	Store, Audit   string // in Data
	Keys           string // the volumes' keys, in Data
	AllowedSigners string // empty at first: no accounts
	StatementPub   string // StatementKey, for people who verify the audit log

	ID           string // set by NewKeyService
	StatementKey string // base64url; set by NewKeyService
}

// KeyServiceIn returns the files of a key service in dir.
func KeyServiceIn(dir string) KeyService {
	in := func(n ...string) string { return filepath.Join(append([]string{dir}, n...)...) }
	return KeyService{
		Certificates: Certificates{CA: in("ca.crt"), CAKey: in("ca.key"), TLSCert: in("tls.crt"), TLSKey: in("tls.key")},
		Config:       in("server.conf"), MasterKey: in("master.key"), Data: in("data"),
		Store: in("data", boltstore.FileName), Audit: in("data", "audit.log"),
		Keys:           in("data", slotstore.FileName),
		AllowedSigners: in("accounts"), StatementPub: in("statement.pub"),
	}
}

// NewKeyService makes all that a key service needs in dir. Its certificate is
// for hosts (names and addresses; the first is also the service's name), and it
// listens on listen, ADDRESS:PORT.
func NewKeyService(dir string, hosts []string, listen string) (KeyService, error) {
	l := KeyServiceIn(dir)
	if len(hosts) == 0 {
		return l, errors.New("key service: no host name or address for its certificate")
	}
	if err := noneExists(append(l.paths(), l.Config, l.StatementPub, l.MasterKey, l.Store, l.Keys, l.Audit)...); err != nil {
		return l, err
	}
	if err := os.MkdirAll(l.Data, 0o700); err != nil {
		return l, fmt.Errorf("set up: %w", err)
	}
	files, err := l.files(hosts)
	if err != nil {
		return l, fmt.Errorf("set up: %w", err)
	}
	var master boltstore.MasterKey
	rand.Read(master[:]) // never fails
	if err := writeAll(append(files, file{l.MasterKey, []byte(hex.EncodeToString(master[:]) + "\n"), 0o600})); err != nil {
		return l, err
	}
	err = writeAll([]file{{l.AllowedSigners, []byte(accountsHeader), 0o644}})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return l, err
	}
	name := serviceName(hosts[0])
	if err := l.firstStart(name, master); err != nil {
		return l, err
	}
	return l, writeAll([]file{
		{l.Config, l.config(hosts[0], name, listen), 0o644}, {l.StatementPub, []byte(l.StatementKey + "\n"), 0o644},
	})
}

const accountsHeader = `# Accounts of the key service, in OpenSSH's allowed_signers format (ssh-keygen(1)):
#   NAME ssh-ed25519 AAAA...
# NAME is the account. Several lines with one NAME are several keys of it.
`

// config renders server.conf; paths in it are relative to it.
func (l KeyService) config(host, name, listen string) []byte {
	return fmt.Appendf(nil, `# The key service of %s. server.conf.example explains every key.
[server]
name = %s
listen = %s
data-dir = %s
master-key-file = %s
allowed-signers = %s
tls-cert = %s
tls-key = %s
audit = %s
`, host, name, listen, filepath.Base(l.Data), filepath.Base(l.MasterKey), filepath.Base(l.AllowedSigners),
		filepath.Base(l.TLSCert), filepath.Base(l.TLSKey), filepath.Join(filepath.Base(l.Data), filepath.Base(l.Audit)))
}

// firstStart makes the service's identity, which is all that the first start does.
func (l *KeyService) firstStart(name string, k boltstore.MasterKey) error {
	st, err := boltstore.Open(l.Store, k)
	if err != nil {
		return err
	}
	keys, err := slotstore.Open(context.Background(), st.Home(nil), nil)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	srv, err := keyserver.New(keyserver.Config{Name: name, Store: st, Keys: keys, AuditLog: l.Audit,
		AllowedSigners: l.AllowedSigners})
	if err != nil {
		return errors.Join(err, keys.Close(), st.Close())
	}
	l.ID, l.StatementKey = srv.ID(), manifest.EncodeKey(srv.StatementKey())
	return errors.Join(srv.Close(), keys.Close(), st.Close())
}

// serviceName turns a host into a service's name.
func serviceName(host string) string {
	if keyserver.ValidName(host) {
		return host
	}
	return "sealbatch"
}
