// Package setup makes what a new service needs: an authority of its own, a TLS
// certificate, keys, and a configuration that names them. Nothing that exists is
// overwritten. What only the service may read belongs to its user; what it has to
// believe (configuration, accounts, nodes) belongs to who sets it up, so that the
// service cannot write it.
//
//	key service                              verifier
//	DIR          server.conf                 DIR          verifier.conf
//	             ca.crt, tls.crt, tls.key                 verifier-ca.crt, verifier.crt, verifier.key
//	             accounts       none at first             nodes                  none at first
//	             statement.pub  for auditors              verifier-signing.pem   signs vouchers
//	DATA         store, keys and log                       enrol.conf             for server.conf
//	DIR-master   master.key     seals the store
//	DIR-offline  ca.key, ca.crt              DIR-offline  verifier-ca.key, verifier-ca.crt
//
// DIR-offline is for its operator to take away: the authority's key is needed only
// to renew the certificate.
package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// file is a file to be made.
type file struct {
	path string
	body []byte
	mode os.FileMode
}

// Modes of files.
const (
	forAll     os.FileMode = 0o644
	forService os.FileMode = 0o400 // and no one else; belongs to the service's user
	forOwner   os.FileMode = 0o600 // and no one else; belongs to who sets the service up
)

// noneExists finds out before anything is made whether something is in the way.
func noneExists(paths ...string) error {
	for _, p := range paths {
		if _, err := os.Lstat(p); err == nil {
			return fault.New(fault.Other, fmt.Errorf("%s exists: something was set up here before; nothing was changed", p),
				"start what is set up here, or name another directory; to begin anew, move all of it away, its keys too")
		}
	}
	return nil
}

// makeDir makes a directory of that mode, whatever the umask is. One that exists
// stays as it is. Others must not be able to write either.
func makeDir(path string, mode os.FileMode) error {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.Mkdir(path, mode)
	}
	switch {
	case err == nil:
		err = os.Chmod(path, mode)
	case errors.Is(err, fs.ErrExist):
		err = nil
	}
	if err == nil {
		err = trusted.CheckDir(path)
	}
	if err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// writeAll writes files that must not exist, durably, with their modes whatever
// the umask is. Those for the service become its user's.
func (s serviceUser) writeAll(files []file) error {
	for _, f := range files {
		err := fsx.WriteNew(f.path, f.body, f.mode)
		if err == nil {
			err = os.Chmod(f.path, f.mode)
		}
		if err == nil && f.mode == forService {
			err = s.own(f.path)
		}
		if err == nil {
			err = fsx.SyncDir(filepath.Dir(f.path))
		}
		if err != nil {
			return fmt.Errorf("set up: %w", err)
		}
	}
	return nil
}

// from returns path as a configuration in dir names it: relative to that where it
// lies below, else absolute.
func from(dir, path string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(dir, path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return rel, nil
	}
	return path, nil
}
