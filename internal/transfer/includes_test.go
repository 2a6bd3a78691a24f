package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/sshconfig"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// A configuration, what it includes and what that includes must be one's own; a
// known_hosts file, and all above it; and others may not read a key that logs in.
func TestFilesOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{
		"config":      "Host a\n  Port 1\nHost b\n  Include  " + at("more-*") + " # more\n",
		"more-1":      "Port 2\n",
		"more-2":      "Include=" + at("most") + "\n",
		"most":        "Port 3\n",
		"known_hosts": "",
		"key":         "not a key",
	} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := map[string]func() error{
		"config": func() error {
			_, err := resolve(t.Context(), sshconfig.Query{Host: "b", File: at("config")})
			return err
		},
		"known_hosts": func() error {
			_, err := newHostKeys(&target{host: "h", port: 22, knownHosts: []string{at("known_hosts")}})
			return err
		},
		"key": func() error { _, err := readPrivateKey(at("key")); return err },
	}
	for _, c := range []struct {
		what, path string
		mode       os.FileMode
		refused    bool
	}{
		{"config", "config", 0o644, false}, {"config", "config", 0o664, true}, {"config", "config", 0o606, true},
		{"config", "more-1", 0o644, false}, {"config", "more-1", 0o664, true}, {"config", "more-2", 0o602, true},
		{"config", "most", 0o620, true}, {"config", ".", 0o775, false},
		{"known_hosts", "known_hosts", 0o644, false}, {"known_hosts", "known_hosts", 0o664, true},
		{"known_hosts", ".", 0o775, true},
		{"key", "key", 0o600, false}, {"key", "key", 0o640, true}, {"key", "key", 0o604, true}, {"key", ".", 0o775, false},
	} {
		before, err := os.Stat(at(c.path))
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(os.Chmod(at(c.path), c.mode), read[c.what]())
		if errors.Is(err, trusted.ErrUnsafe) != c.refused || (err != nil) != c.refused || (c.refused && fault.Hint(err) == "") {
			t.Errorf("%s with %s of mode %o: %v (%s)", c.what, c.path, c.mode, err, fault.Hint(err))
		}
		if err := os.Chmod(at(c.path), before.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
}
