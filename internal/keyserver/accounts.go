package keyserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/internal/sshid"
)

const bucketAccounts = "accounts" // by principal: account

// account is a principal of the allowed_signers file. Its id is random, made
// when the principal is first seen, and survives changes of keys.
type account struct {
	ID   string `json:"id"` // 32 hex digits
	Name string `json:"name"`
}

// accounts is the administrator's file, read again whenever it changes.
type accounts struct {
	path       string
	store      store.Viewer
	commits    *committer
	conditions *service.Conditions
	log        *slog.Logger

	reading sync.Mutex // held while the file is looked at; guards what follows
	seen    fileVersion
	content [sha256.Size]byte // of that version

	mu sync.RWMutex
	in admitted
}

// admitted is who is enrolled. A key counts if it stands in both keyrings, under
// the same name, which are one as long as the file is good. While it is not, a key
// that the administrator has just removed may stand in the last good version only,
// and who has written into the file what into the present one only.
type admitted struct {
	good    keyring // the last good version
	present keyring // what can be read of the present one
	ids     map[string]account
	problem error // why the present version is not good
	since   time.Time
}

// settleTime is how long after a change of the file its reader may have met an
// editor at work.
const settleTime = 2 * time.Second

// errNotEnrolled says that no line admits a key.
var errNotEnrolled = errors.New("this SSH key belongs to no account of the key service")

// lookup returns the account whose key (a fingerprint) the file, as it is now, admits
// for namespace at time at.
func (a *accounts) lookup(key, namespace string, at time.Time) (account, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	good, present := a.in.good[key], a.in.present[key]
	if len(good) == 0 || len(present) == 0 || name(good[0]) != name(present[0]) {
		return account{}, fmt.Errorf("%w: %s", errNotEnrolled, key)
	}
	admits := func(l sshid.AllowedSigner) bool { return l.Allows(namespace, at) }
	acc, known := a.in.ids[name(good[0])]
	if !known || !slices.ContainsFunc(good, admits) || !slices.ContainsFunc(present, admits) {
		return account{}, fmt.Errorf("%w: %s is enrolled for %s, but not for namespace %s at %s",
			errNotEnrolled, key, name(good[0]), namespace, at.UTC().Format(time.RFC3339))
	}
	return acc, nil
}

// uncertain reports whether who is not enrolled now may be so in a moment: while the
// file holds an error, or an editor may be at work on it.
func (a *accounts) uncertain() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.in.problem != nil || time.Since(a.in.since) < settleTime
}

// refresh reads the file if it has changed. A version that cannot be read as a whole
// is an error and a condition of the service; what counts then, admitted says.
func (a *accounts) refresh(ctx context.Context) error { return a.read(ctx, false) }

// refreshUntil refreshes every second until ctx ends: a change is noticed, and said,
// when nobody asks for anything, too.
func (a *accounts) refreshUntil(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = a.refresh(ctx) // it says so itself
		}
	}
}

func (a *accounts) read(ctx context.Context, again bool) error {
	a.reading.Lock()
	defer a.reading.Unlock()
	if !again && a.seen.stillThere(a.path) {
		return a.in.problem
	}
	text, seen, err := readAccounts(a.path)
	a.seen = seen
	sum := sha256.Sum256(text)
	if err == nil && !again && sum == a.content && a.in.problem == nil {
		return nil
	}
	old := a.in
	next := admitted{good: old.good, ids: old.ids, since: time.Now()}
	if err != nil {
		next.problem = err
	} else {
		f := parseAccounts(a.path, string(text))
		next.present, next.problem = f.keys, errors.Join(f.bad...)
	}
	if next.problem == nil {
		next.good = next.present
		if next.ids, err = a.enrol(ctx, next.good); err != nil {
			next.problem, a.seen = err, fileVersion{}
		}
	}
	known := sum == a.content && old.problem != nil && next.problem != nil && old.problem.Error() == next.problem.Error()
	a.content = sum
	a.mu.Lock()
	a.in = next
	a.mu.Unlock()
	if !known {
		a.note(old, next, sum)
	}
	return next.problem
}

// note tells log, audit log and watchers of a version.
func (a *accounts) note(old, next admitted, sum [sha256.Size]byte) {
	if next.problem != nil {
		a.conditions.Set("accounts", "the file cannot be read as a whole; only keys that stood in it before count")
		a.log.Error("accounts hold an error; only keys that count in the last good version, too, are in force",
			"error", next.problem)
		a.write(&audit.Event{Event: "accounts.read", Outcome: audit.OutcomeRefused, Reason: auditReason(next.problem)})
		return
	}
	a.conditions.Set("accounts", "")
	a.log.Info("accounts loaded", "keys", len(next.good), "accounts", len(next.ids))
	a.write(&audit.Event{Event: "accounts.read", Outcome: audit.OutcomeDone, Reason: auditReason(fmt.Errorf(
		"%d keys of %d accounts, SHA-256 %x%s", len(next.good), len(next.ids), sum, changes(old.good, next.good)))})
}

func (a *accounts) write(e *audit.Event) {
	if _, err := a.commits.do(e, nil); err != nil {
		a.log.Error("what became of the accounts was not written down", "error", err)
	}
}

// changes names what came and went.
func changes(old, next keyring) string {
	var b strings.Builder
	list := func(what string, of, without keyring) {
		for _, k := range slices.Sorted(maps.Keys(of)) {
			if len(without[k]) == 0 {
				fmt.Fprintf(&b, "; %s %s %s", what, name(of[k][0]), k)
			}
		}
	}
	if old == nil { // at the start
		return ""
	}
	list("removed", old, next)
	list("added", next, old)
	return b.String()
}

// enrol returns the account of each name, making those that are new.
func (a *accounts) enrol(ctx context.Context, k keyring) (map[string]account, error) {
	out, created := map[string]account{}, map[string]*account{}
	var added []*operation
	err := a.store.View(ctx, func(r store.Reader) error {
		for n := range k.names() {
			var acc account
			switch err := getJSON(r, bucketAccounts, n, &acc); {
			case err == nil:
				out[n] = acc
			case errors.Is(err, store.ErrNotFound):
				created[n] = &account{}
				added = append(added, newAccount(n, created[n]))
			default:
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = a.commits.doAll(added)
	}
	if err != nil {
		return out, fmt.Errorf("accounts: %w", err)
	}
	for n, acc := range created {
		out[n] = *acc
	}
	return out, nil
}

// newAccount makes the account of name, unless somebody else just did, and puts it in acc.
func newAccount(name string, acc *account) *operation {
	ev := &audit.Event{Event: "account.new", Outcome: audit.OutcomeDone, User: name}
	return &operation{event: ev, op: func(w store.Writer) error {
		err := getJSON(w, bucketAccounts, name, acc)
		if errors.Is(err, store.ErrNotFound) {
			*acc = account{ID: randomHex(16), Name: name}
			err = putJSON(w, bucketAccounts, name, *acc)
		}
		ev.Account = acc.ID
		return err
	}}
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
