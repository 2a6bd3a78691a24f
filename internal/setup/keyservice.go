package setup

import (
	"cmp"
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
// clients' ca-cert; MasterKey lies outside Data on purpose, and CAKey where the
// service does not run.
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

// KeyServiceOptions describe a key service that is to be made. Dir, Hosts and
// Listen are required.
type KeyServiceOptions struct {
	Dir     string   // configuration, and what is for everybody
	Hosts   []string // names and addresses of its certificate; the first is also the service's name
	Listen  string   // ADDRESS:PORT
	User    string   // Unix user as whom it will run; "" is who sets it up
	Data    string   // directory of store and log; default Dir/data
	Master  string   // directory of the master key; default Dir-master
	Offline string   // directory of the authority's key; default Dir-offline
	NoStore bool     // without store, audit log and statement key, which are made where the data directory is
}

// Layout returns the files of a key service.
func (o KeyServiceOptions) Layout() KeyService {
	o.Dir = filepath.Clean(o.Dir)
	in := func(name string) string { return filepath.Join(o.Dir, name) }
	data := cmp.Or(o.Data, in("data"))
	return KeyService{
		Certificates: Certificates{CA: in("ca.crt"), CAKey: filepath.Join(cmp.Or(o.Offline, o.Dir+"-offline"), "ca.key"),
			TLSCert: in("tls.crt"), TLSKey: in("tls.key")},
		Config: in("server.conf"), MasterKey: filepath.Join(cmp.Or(o.Master, o.Dir+"-master"), "master.key"),
		Data: data, Store: filepath.Join(data, boltstore.FileName), Keys: filepath.Join(data, slotstore.FileName),
		Audit:          filepath.Join(data, "audit.log"),
		AllowedSigners: in("accounts"), StatementPub: in("statement.pub"),
	}
}

// NewDataDir makes a data directory, if it is not there: ErrNotEmpty if it holds anything.
func NewDataDir(path string) error {
	if err := emptyDir(path); err != nil {
		return err
	}
	return makeDir(path, 0o700)
}

func emptyDir(path string) error {
	if names, err := os.ReadDir(path); err == nil && len(names) > 0 {
		return fmt.Errorf("set up: %s is to be the service's data directory, and %w", path, ErrNotEmpty)
	}
	return nil
}

// ErrNotEmpty says that a new service's data directory is somebody's already.
var ErrNotEmpty = errors.New("is not empty")

// NewKeyService makes all that a key service needs.
func NewKeyService(o KeyServiceOptions) (KeyService, error) {
	l := o.Layout()
	if len(o.Hosts) == 0 {
		return l, errors.New("key service: no host name or address for its certificate")
	}
	if err := noneExists(append(l.paths(), l.Config, l.StatementPub, l.MasterKey, l.Store, l.Keys, l.Audit)...); err != nil {
		return l, err
	}
	if err := errors.Join(l.checkApart(), emptyDir(l.Data)); err != nil {
		return l, err
	}
	name := serviceName(o.Hosts[0])
	who, err := lookUpUser(o.User)
	if err != nil {
		return l, err
	}
	conf, err := l.config(o, name)
	if err != nil {
		return l, err
	}
	files, err := l.files(o.Hosts)
	if err != nil {
		return l, fmt.Errorf("set up: %w", err)
	}
	var master boltstore.MasterKey
	rand.Read(master[:]) // never fails
	if err := l.makeDirs(who); err != nil {
		return l, err
	}
	files = append(files, file{l.MasterKey, []byte(hex.EncodeToString(master[:]) + "\n"), forService})
	if _, err := os.Lstat(l.AllowedSigners); errors.Is(err, fs.ErrNotExist) {
		files = append(files, file{l.AllowedSigners, []byte(accountsHeader), forAll})
	}
	if err := who.writeAll(files); err != nil {
		return l, err
	}
	if o.NoStore {
		return l, who.writeAll([]file{{l.Config, conf, forAll}})
	}
	if err := NewDataDir(l.Data); err != nil {
		return l, err
	}
	if err := errors.Join(l.firstStart(name, master), who.ownAll(l.Data)); err != nil {
		return l, err
	}
	return l, who.writeAll([]file{{l.Config, conf, forAll}, {l.StatementPub, []byte(l.StatementKey + "\n"), forAll}})
}

// makeDirs makes the directories that the service's user cannot write.
func (l KeyService) makeDirs(who serviceUser) error {
	if err := makeDir(filepath.Dir(l.Config), 0o755); err != nil {
		return err
	}
	if err := l.makeOffline(); err != nil {
		return err
	}
	return makeDir(filepath.Dir(l.MasterKey), who.searchable())
}

const accountsHeader = `# Accounts of the key service, in OpenSSH's allowed_signers format (ssh-keygen(1)):
#   NAME ssh-ed25519 AAAA...
# NAME is the account. Several lines with one NAME are several keys of it.
`

// config renders server.conf.
func (l KeyService) config(o KeyServiceOptions, name string) ([]byte, error) {
	b := fmt.Appendf(nil, `# The key service of %s. server.conf.example explains every key.
[server]
name = %s
listen = %s
`, o.Hosts[0], name, o.Listen)
	for _, k := range []struct{ key, path string }{
		{"data-dir", l.Data}, {"master-key-file", l.MasterKey}, {"allowed-signers", l.AllowedSigners},
		{"tls-cert", l.TLSCert}, {"tls-key", l.TLSKey}, {"audit", l.Audit},
	} {
		path, err := from(filepath.Dir(l.Config), k.path)
		if err != nil {
			return nil, fmt.Errorf("set up: %w", err)
		}
		b = fmt.Appendf(b, "%s = %s\n", k.key, path)
	}
	return b, nil
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
