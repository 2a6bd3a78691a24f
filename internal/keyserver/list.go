package keyserver

import (
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/service"
)

// errPageFull ends the reading of a page.
var errPageFull = errors.New("the page is full")

// listSecrets answers GET /v1/secrets. Of a list that is read page by page, the
// beginning is written down.
func (s *Server) listSecrets(q *request) (any, error) {
	after, limit, err := pageOf(q.query, names.ID)
	if err != nil {
		return nil, err
	}
	var out keyapi.SecretList
	err = s.store.View(q.ctx, func(r store.Reader) (err error) {
		out, err = s.readPage(r, q.caller.account.ID, after, limit)
		return err
	})
	if err != nil || after != "" {
		return out, err
	}
	_, err = q.commit(q.event("secret.list", audit.OutcomeDone), nil)
	return out, err
}

// pageOf reads the query of a list, strictly.
func pageOf(query string, isCursor func(string) bool) (after string, limit int, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", 0, service.Refuse(keyapi.CodeBadRequest, "query: %w", err)
	}
	limit = keyapi.MaxPage
	for name, v := range values {
		switch {
		case len(v) == 1 && name == "after" && isCursor(v[0]):
			after = v[0]
		case len(v) == 1 && name == "limit":
			if limit, err = strconv.Atoi(v[0]); err == nil && limit > 0 {
				limit = min(limit, keyapi.MaxPage)
				continue
			}
			fallthrough
		default:
			return "", 0, service.Refuse(keyapi.CodeBadRequest,
				"query %.80q is not limit=NUMBER and after=CURSOR, from the page before", query)
		}
	}
	return after, limit, nil
}

// readPage returns an account's secrets with ids beyond after, as many as one
// answer may hold.
func (s *Server) readPage(r store.Reader, account, after string, limit int) (keyapi.SecretList, error) {
	out := keyapi.SecretList{Secrets: []keyapi.SecretEntry{}}
	prefix := account + "/"
	err := r.EachAfter(bucketOwned, prefix, prefix+after, func(k string, _ []byte) error {
		if len(out.Secrets) == limit {
			out.Next = out.Secrets[limit-1].VolumeID
			return errPageFull
		}
		var rec secretRecord
		if err := getJSON(r, bucketSecrets, strings.TrimPrefix(k, prefix), &rec); err != nil {
			return err
		}
		void, err := reason(s.standsPolicy(r, rec))
		entry := rec.entry()
		entry.PolicyVoid = void != ""
		out.Secrets = append(out.Secrets, entry)
		return err
	})
	if errors.Is(err, errPageFull) {
		err = nil
	}
	return out, err
}

func (s secretRecord) entry() keyapi.SecretEntry {
	return keyapi.SecretEntry{
		VolumeID: s.VolumeID, Name: s.Name, File: s.File, Kind: s.Kind, Size: s.Size, Created: s.Created, Expires: s.Policy.Expires,
		PinVersion: s.Policy.PinVersion, Released: s.Released, Revoked: s.Revoked, SupersededBy: s.SupersededBy,
		PolicyKey: s.PolicySet.Key,
	}
}
