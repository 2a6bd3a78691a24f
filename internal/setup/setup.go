// Package setup makes what a new service needs: an authority of its own, a TLS
// certificate, keys, and a configuration that names them. Nothing that exists is
// overwritten.
//
//	key service (server.conf)              verifier (verifier.conf)
//	ca.crt, ca.key     its authority       verifier-ca.crt, verifier-ca.key
//	tls.crt, tls.key   its certificate     verifier.crt, verifier.key
//	master.key         seals the store     verifier-signing.pem   signs vouchers
//	accounts           none at first       nodes                  none at first
//	statement.pub      for `audit verify`  enrol.conf             for server.conf
//	data/              store, keys and log
package setup

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// file is a file to be made.
type file struct {
	path string
	body []byte
	mode os.FileMode
}

// noneExists finds out before anything is made whether something is in the way.
func noneExists(paths ...string) error {
	for _, p := range paths {
		if _, err := os.Lstat(p); err == nil {
			return fmt.Errorf("%s exists: something was set up here before; nothing was changed", p)
		}
	}
	return nil
}

// writeAll writes files that must not exist, durably.
func writeAll(files []file) error {
	for _, f := range files {
		if err := fsx.WriteNew(f.path, f.body, f.mode); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
		if err := fsx.SyncDir(filepath.Dir(f.path)); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
	}
	return nil
}
