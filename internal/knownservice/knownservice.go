// Package knownservice remembers which key service answered under an address when it was first used. Where no
// authority of the service's own is configured, it is what tells the service from another that has a certificate for
// the same name.
//
// Each address has a file of its own, of mode 0600, in the directory "services" of where sealbatch remembers things:
//
//	services/HOST_PORT-XXXXXXXX.json
//	{
//	  "format": "sealbatch-service/1",
//	  "url": "https://keys.example.org:8443",
//	  "id": "keys#0123...",               the service's name and its statement key's fingerprint
//	  "statement_key": "...",             Ed25519, base64url
//	  "since": "2026-01-02T03:04:05Z"
//	}
//
// XXXXXXXX is the beginning of the address's SHA-256.
package knownservice

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// ErrChanged says that another service answers than the one that is remembered.
var ErrChanged = fault.Sentinel(fault.Integrity, "another key service answers than before")

const (
	format  = "sealbatch-service/1"
	maxFile = 64 << 10 // bytes
)

// Store is a directory of remembered services.
type Store struct {
	Dir string
	Log *slog.Logger
}

// Open returns the store in the directory where sealbatch remembers things. Nothing is made.
func Open(state string, log *slog.Logger) Store {
	return Store{Dir: filepath.Join(state, "services"), Log: log}
}

// known is what a file has.
type known struct {
	Format       string    `json:"format"`
	URL          string    `json:"url"`
	ID           string    `json:"id"`
	StatementKey string    `json:"statement_key"`
	Since        time.Time `json:"since"`
}

// Check returns an error that wraps ErrChanged unless what answers under url is what answered there before. What
// answers for the first time is remembered, and said; where that cannot be written, it is said, and the next
// use is a first one, too.
func (s Store) Check(url string, got keyapi.Service) error {
	file := s.file(url)
	before, err := read(file, url)
	first := errors.Is(err, fs.ErrNotExist)
	if first { // unless somebody else removed it
		err = cmp.Or(unsafe(s.Dir), unsafe(filepath.Dir(s.Dir)))
	}
	switch {
	case err != nil:
		return fmt.Errorf("which key service answered under %s before: %w", url, err)
	case first:
		s.remember(file, known{format, url, got.ID, got.StatementKey, time.Now().UTC().Truncate(time.Second)})
		return nil
	case before.ID == got.ID && before.StatementKey == got.StatementKey:
		return nil
	}
	return fault.WithHint(fmt.Errorf("%w under %s: %.160q, statement key %.80s; since %s it was %.160q, statement key %.80s",
		ErrChanged, url, got.ID, got.StatementKey, before.Since.Format(time.DateOnly), before.ID, before.StatementKey),
		"ask its operator whether it was set up anew; if so, accept the new one by removing "+file)
}

// unsafe returns an error if somebody else can remove what is in a directory.
func unsafe(dir string) error {
	if err := trusted.CheckDir(dir); errors.Is(err, trusted.ErrUnsafe) {
		return err
	}
	return nil
}

// remember writes k, and says so.
func (s Store) remember(file string, k known) {
	s.Log.Info(fmt.Sprintf("the key service %s is used for the first time from here: %.160s (a fingerprint of its statement key; "+
		"its operator can tell whether it is right)", k.URL, k.ID))
	b, err := json.MarshalIndent(k, "", "  ")
	if err == nil {
		err = os.MkdirAll(s.Dir, 0o700)
	}
	if err == nil {
		err = fsx.Replace(file, append(b, '\n'), 0o600)
	}
	if err != nil {
		s.Log.Warn("it cannot be remembered, so that another in its place would not be noticed: name its authority "+
			"under [hpcs-server] ca-cert", "error", err)
	}
}

func read(file, url string) (k known, err error) {
	b, err := trusted.ReadFile(file, maxFile)
	if err != nil {
		return k, err
	}
	if err := manifest.DecodeJSON(b, &k); err != nil || k.Format != format || k.URL != url {
		return k, fault.New(fault.Integrity, fmt.Errorf("%s is damaged, or not of this version", file), "remove it, once its operator has "+
			"told you the service's id")
	}
	return k, nil
}

// file returns where the service of an address is remembered.
func (s Store) file(url string) string {
	host := strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '_'
	}, strings.TrimPrefix(url, "https://"))
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(s.Dir, fmt.Sprintf("%.100s-%x.json", host, sum[:4]))
}
