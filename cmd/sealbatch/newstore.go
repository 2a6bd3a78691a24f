package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/setup"
)

// sayKeysOnly says what was made, and that there is no key service yet.
func sayKeysOnly(a *app, o setup.KeyServiceOptions, l setup.KeyService) error {
	fmt.Fprintf(a.stderr, `keys and certificate of a key service are in %s; it has no store yet
  give to its users        %s (their ca-cert)
  keep apart, and safe     a copy of %s, elsewhere than copies of the store
  take off this machine    %s: the authority's key, which renews the certificate
  make its store           sealbatch serve --config server.conf --new-store, where the data directory is to be
`, o.Dir, l.CA, l.MasterKey, filepath.Dir(l.CAKey))
	fmt.Fprintln(a.stdout, l.Config)
	return nil
}

// initStore makes store, audit log and keys of a new service, whose configuration, keys and
// certificate are there.
func initStore(ctx context.Context, a *app, c *config.Server) error {
	if err := setup.NewDataDir(c.DataDir); err != nil {
		return fault.New(fault.Other, err, "start what is there, restore it from a backup, or name another data-dir")
	}
	if _, err := os.Lstat(c.Audit); !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Other, errors.Join(fmt.Errorf("%s exists: it is another service's", c.Audit), err),
			"move it away, or name another file in [server] audit")
	}
	s, err := openKeyService(ctx, c, keyStores, a.log)
	if err != nil {
		return errors.Join(err, unmake(c))
	}
	id, key := s.ID(), manifest.EncodeKey(s.StatementKey())
	if err := errors.Join(s.Close(), s.closeStores()); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "key service %s has its store in %s\n  verifies its audit log   %s (statement key)\n", id, c.DataDir, key)
	fmt.Fprintln(a.stdout, key)
	return nil
}

// unmake removes what a start that failed left of a store that was not there before it.
func unmake(c *config.Server) error {
	errs := []error{os.RemoveAll(c.Audit)}
	names, err := os.ReadDir(c.DataDir)
	for _, n := range names {
		errs = append(errs, os.RemoveAll(filepath.Join(c.DataDir, n.Name())))
	}
	return errors.Join(append(errs, err)...)
}
