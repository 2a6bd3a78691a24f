package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/config"
)

// TestEveryLimitIsAKey takes the examples with all limits uncommented: there is
// none of either service that an operator cannot set.
func TestEveryLimitIsAKey(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]func(path string) (any, error){
		"server.conf.example": func(path string) (any, error) {
			c, err := config.LoadServer(path)
			if err != nil {
				return nil, err
			}
			return serverLimits(c.Limits), nil
		},
		"verifier.conf.example": func(path string) (any, error) {
			c, err := config.LoadVerifier(path)
			if err != nil {
				return nil, err
			}
			return verifierLimits(c.Limits), nil
		},
	} {
		b, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		head, limits, ok := strings.Cut(string(b), "\n[limits]\n")
		limits, _, _ = strings.Cut(limits, "\n\n")
		path := filepath.Join(t.TempDir(), name)
		text := head + "\n[limits]\n" + strings.ReplaceAll(strings.ReplaceAll(limits, "# ", ";"), "\n#", "\n") + "\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil || !ok {
			t.Fatal(ok, err)
		}
		got, err := load(path)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		for v, i := reflect.ValueOf(got), 0; i < v.NumField(); i++ {
			if v.Field(i).IsZero() {
				t.Errorf("%s: there is no key for %s", name, v.Type().Field(i).Name)
			}
		}
	}
}
