package keyserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/token"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/internal/sshid"
)

// What the administrator may ask on the local socket (service.ServeLocal):
//
//	GET  /accounts                   AccountList
//	GET  /accounts/{name}            AccountInfo
//	POST /accounts/{name}/withdraw   AccountInfo of what was withdrawn; ?policies=yes for those, too

// AccountInfo is an account, also of one that was removed, and what rests on its word.
type AccountInfo struct {
	Name    string        `json:"name"`
	ID      string        `json:"id"`
	Keys    []AccountKey  `json:"keys"` // that the file of accounts has now
	Volumes []VolumeState `json:"volumes"`
	Jobs    []JobState    `json:"jobs"` // registered, and not expired
	Tokens  []TokenState  `json:"tokens"`
}

// AccountList is every account that ever was, without what each has.
type AccountList struct {
	Accounts []AccountInfo `json:"accounts"`
}

// AccountKey is a line of the file of accounts.
type AccountKey struct {
	Fingerprint string    `json:"fingerprint"`
	ValidBefore time.Time `json:"valid_before"` // zero: without end
}

// VolumeState is a deposited volume. Withheld says why nothing is released, as far as
// that is the account's matter; "" if it may be.
type VolumeState struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	File     string `json:"file"`
	Key      string `json:"key"` // fingerprint of the SSH key that set its policy
	Withheld string `json:"withheld"`
}

// JobState is a registered manifest.
type JobState struct {
	Manifest   string    `json:"manifest"`
	User       string    `json:"user"`
	Job        string    `json:"job"` // that it is bound to; "" for none yet
	Key        string    `json:"key"`
	Registered time.Time `json:"registered"`
	Expires    time.Time `json:"expires"`
	Withheld   string    `json:"withheld"`
}

// TokenState is a token that was not used and has not expired.
type TokenState struct {
	ID       string    `json:"id"`
	Manifest string    `json:"manifest"`
	Key      string    `json:"key"`
	Expires  time.Time `json:"expires"`
	Withheld string    `json:"withheld"`
}

// serveLocal answers on the local socket until ctx ends.
func (s *Server) serveLocal(ctx context.Context) {
	if err := service.ServeLocal(ctx, s.localDir, s.localCalls()); err != nil {
		s.log.Error("sealbatch serve account does not work", "error", err)
	}
}

func (s *Server) localCalls() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /accounts", s.local(func(r *http.Request) (any, error) { return s.allAccounts(r.Context()) }))
	mux.Handle("GET /accounts/{name}", s.local(func(r *http.Request) (any, error) {
		return s.describeAccount(r.Context(), r.PathValue("name"))
	}))
	mux.Handle("POST /accounts/{name}/withdraw", s.local(func(r *http.Request) (any, error) {
		policies := r.URL.Query().Get("policies") == "yes"
		return s.withdraw(r.Context(), r.PathValue("name"), policies, service.PeerUID(r.Context()))
	}))
	return mux
}

func (s *Server) local(answer func(*http.Request) (any, error)) http.Handler {
	return s.front.Handler(func(w http.ResponseWriter, r *http.Request) error {
		_ = s.accounts.refresh(r.Context()) // its error is a condition
		v, err := answer(r)
		if err != nil {
			s.log.Info("local request refused", "path", r.URL.Path, "error", err)
			return s.asRefusal(err)
		}
		keyapi.WriteJSON(w, http.StatusOK, v)
		return nil
	})
}

func (s *Server) allAccounts(ctx context.Context) (AccountList, error) {
	var out AccountList
	err := s.store.View(ctx, func(r store.Reader) error {
		return r.Each(bucketAccounts, "", func(_ string, b []byte) error {
			var acc account
			if err := json.Unmarshal(b, &acc); err != nil {
				return fmt.Errorf("record in %s: %w", bucketAccounts, err)
			}
			out.Accounts = append(out.Accounts, AccountInfo{Name: acc.Name, ID: acc.ID, Keys: s.accounts.keysOf(acc.Name)})
			return nil
		})
	})
	return out, err
}

// keysOf returns the keys that count for a name now.
func (a *accounts) keysOf(of string) []AccountKey {
	var out []AccountKey
	for _, l := range a.linesOf(of) {
		out = append(out, AccountKey{sshid.Fingerprint(l.Key), l.ValidBefore})
	}
	return out
}

// describeAccount returns an account with what it has; CodeNotFound if there never was one.
func (s *Server) describeAccount(ctx context.Context, name string) (AccountInfo, error) {
	var out AccountInfo
	err := s.store.View(ctx, func(r store.Reader) error {
		acc, err := accountNamed(r, name)
		if err != nil {
			return err
		}
		out = AccountInfo{Name: acc.Name, ID: acc.ID, Keys: s.accounts.keysOf(acc.Name)}
		return errors.Join(s.addVolumes(r, &out), s.addJobs(r, &out), s.addTokens(r, &out))
	})
	return out, err
}

func accountNamed(g getter, name string) (acc account, err error) {
	err = getJSON(g, bucketAccounts, name, &acc)
	if errors.Is(err, store.ErrNotFound) {
		err = service.Refuse(keyapi.CodeNotFound, "there never was an account %.80q", name).
			WithHint("sealbatch serve account list shows them")
	}
	return acc, err
}

func (s *Server) addVolumes(r store.Reader, to *AccountInfo) error {
	prefix := to.ID + "/"
	return r.Each(bucketOwned, prefix, func(k string, _ []byte) error {
		var sec secretRecord
		if err := getJSON(r, bucketSecrets, strings.TrimPrefix(k, prefix), &sec); err != nil {
			return err
		}
		withheld, err := reason(s.standsPolicy(r, sec))
		to.Volumes = append(to.Volumes, VolumeState{sec.VolumeID, sec.Name, sec.File, sec.PolicySet.Key, withheld})
		return err
	})
}

func (s *Server) addJobs(r store.Reader, to *AccountInfo) error {
	return r.Each(bucketManifests, "", func(_ string, b []byte) error {
		var m manifestRecord
		if err := json.Unmarshal(b, &m); err != nil {
			return fmt.Errorf("record in %s: %w", bucketManifests, err)
		}
		if m.Account != to.ID || !s.now().Before(m.Expires) {
			return nil
		}
		withheld, err := reason(s.standsJob(r, m))
		j := JobState{Manifest: m.Digest.String(), User: m.User, Key: m.Registered.Key, Registered: m.Registered.At,
			Expires: m.Expires, Withheld: withheld}
		if m.Bound != nil {
			j.Job = jobName(*m.Bound)
		}
		to.Jobs = append(to.Jobs, j)
		return err
	})
}

func (s *Server) addTokens(r store.Reader, to *AccountInfo) error {
	return r.Each(token.Bucket, "", func(id string, b []byte) error {
		var t token.Record
		if err := json.Unmarshal(b, &t); err != nil {
			return fmt.Errorf("record in %s: %w", token.Bucket, err)
		}
		_, err := r.Get(attest.SingleUses, attest.SingleUseKey(keyapi.EvidenceToken, id))
		if t.Account.ID != to.ID || !s.now().Before(t.Expires) || err == nil {
			return nil
		}
		claims := attest.Claims{Attestor: keyapi.EvidenceToken, Submitter: t.Account.ID, Authority: t.Authority}
		withheld, err := reason(s.standsEvidence(r, claims))
		to.Tokens = append(to.Tokens, TokenState{id, t.Manifest.String(), t.Authority.Key, t.Expires, withheld})
		return err
	})
}

// reason returns a refusal's text, or the error that is none.
func reason(err error) (string, error) {
	if r, ok := errors.AsType[*service.Refusal](err); ok {
		return r.Message, nil
	}
	return "", err
}

// withdraw ends all jobs and tokens of an account, and with policies what its owner
// set for volumes: none is released until the owner sets it anew. It returns what
// the account had by then.
func (s *Server) withdraw(ctx context.Context, name string, policies bool, uid int) (AccountInfo, error) {
	had, err := s.describeAccount(ctx, name)
	if err != nil {
		return had, err
	}
	by := int64(uid)
	ev := &audit.Event{Event: "account.withdraw", Outcome: audit.OutcomeDone, Account: had.ID, User: had.Name, UID: &by,
		Reason: fmt.Sprintf("%d jobs, %d tokens", len(had.Jobs), len(had.Tokens))}
	if policies {
		ev.Reason += fmt.Sprintf(", the policies of %d volumes", len(had.Volumes))
	}
	_, err = s.commits.do(ev, func(w store.Writer) error {
		n, err := withdrawalsOf(w, had.ID)
		if err != nil {
			return err
		}
		n.Jobs++
		if policies {
			n.Policies++
		}
		return putJSON(w, bucketWithdrawn, had.ID, n)
	})
	if err == nil {
		s.log.Warn("withdrawn", "account", had.Name, "jobs", len(had.Jobs), "tokens", len(had.Tokens), "policies", policies)
	}
	return had, err
}
