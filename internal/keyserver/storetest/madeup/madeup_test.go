package madeup_test

import (
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/storetest"
	"github.com/sealbatch/sealbatch/internal/keyserver/storetest/madeup"
)

func TestConforms(t *testing.T) {
	t.Parallel()
	storetest.TestKeyStore(t, func(t *testing.T, dir string) store.KeyStoreCloser {
		keys, err := madeup.Open(t.Context(), store.Home{}, store.Parameters{"directory": dir})
		if err != nil {
			t.Fatal(err)
		}
		return keys
	})
}
