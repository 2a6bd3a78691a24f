package keyserver

import (
	"cmp"
	"errors"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/service"
)

// bucketCounts holds how many records of a kind each account has, by
// account/kind. Each is changed in the transaction that makes or removes one.
const bucketCounts = "counts"

// Kinds of records that an account may have so many of; the limits' names in server.conf.
const (
	countSecrets   = "secrets-per-account"
	countManifests = "manifests-per-account"
	countTokens    = "tokens-per-account"
	countDeleted   = "deletions-per-account"
	countReleases  = "releases-per-account"
	countBytes     = "job-bytes-per-account"
)

func countKey(account, kind string) string { return account + "/" + kind }

func countOf(g getter, account, kind string) (n int, err error) {
	err = getJSON(g, bucketCounts, countKey(account, kind), &n)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return n, err
}

// room refuses an account that has as many records of a kind as it may.
func room(g getter, who account, kind string, most int) error { return roomFor(g, who, kind, 1, most) }

// roomFor refuses an account that would have more of a kind than it may with so many more.
func roomFor(g getter, who account, kind string, more, most int) error {
	n, err := countOf(g, who.ID, kind)
	if err != nil || n+more <= most {
		return err
	}
	what := map[string]string{countSecrets: "deposited volumes", countManifests: "registered jobs", countTokens: "tokens",
		countDeleted: "deleted volumes", countReleases: "released keys", countBytes: "bytes of registered jobs"}[kind]
	return service.Refuse(keyapi.CodeBadRequest, "account %s has %d %s at this key service, as many as it may",
		cmp.Or(who.Name, who.ID), n, what).
		WithHint("the key service's administrator raises [limits] %s in server.conf; "+
			"all but volumes count for some time", kind)
}

// count adds n to an account's records of a kind.
func count(w store.Writer, account, kind string, n int) error {
	old, err := countOf(w, account, kind)
	if err != nil {
		return err
	}
	if old+n <= 0 {
		return w.Delete(bucketCounts, countKey(account, kind))
	}
	return putJSON(w, bucketCounts, countKey(account, kind), old+n)
}
