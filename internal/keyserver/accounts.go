package keyserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/sshid"
)

const bucketAccounts = "accounts" // by principal: account

// account is a principal of the allowed_signers file. Its id is random, made
// when the principal is first seen, and survives changes of keys.
type account struct {
	ID   string `json:"id"` // 32 hex digits
	Name string `json:"name"`
}

// enrolment is one line of the file.
type enrolment struct {
	account account
	line    sshid.AllowedSigner
}

// accounts is the administrator's file, read again when it changes.
type accounts struct {
	path    string
	store   store.Viewer
	commits *committer
	log     *slog.Logger

	mu      sync.RWMutex
	byKey   map[string][]enrolment // by marshalled public key
	stamp   fileStamp
	checked time.Time
}

type fileStamp struct {
	mtime time.Time
	size  int64
}

// errNotEnrolled says that no line admits a key.
var errNotEnrolled = errors.New("this SSH key belongs to no account of the key service")

// lookup returns the account of key for namespace at time now. Several lines
// may hold one key, for different namespaces or times, but for one principal.
func (a *accounts) lookup(key ssh.PublicKey, namespace string, now time.Time) (account, error) {
	a.mu.RLock()
	lines := a.byKey[string(key.Marshal())]
	a.mu.RUnlock()
	if len(lines) == 0 {
		return account{}, fmt.Errorf("%w: %s", errNotEnrolled, sshid.Fingerprint(key))
	}
	for _, e := range lines {
		if e.line.Allows(namespace, now) {
			return e.account, nil
		}
	}
	return account{}, fmt.Errorf("%w: %s is enrolled for %s, but not for namespace %s at this time",
		errNotEnrolled, sshid.Fingerprint(key), lines[0].account.Name, namespace)
}

// refresh reloads the file if it has changed; it looks at most once a second.
// A file that cannot be read or parsed leaves the last good one in force.
func (a *accounts) refresh(ctx context.Context, now time.Time) {
	a.mu.Lock()
	due := now.Sub(a.checked) >= time.Second || now.Before(a.checked)
	if due {
		a.checked = now
	}
	old := a.stamp
	a.mu.Unlock()
	if !due {
		return
	}
	st, err := os.Stat(a.path)
	if err == nil && (fileStamp{st.ModTime(), st.Size()}) == old {
		return
	}
	if err == nil {
		err = a.reload(ctx)
	}
	if err != nil {
		a.log.Error("accounts not reloaded; the earlier ones stay in force", "error", err)
	}
}

// reload reads the file, gives new principals an account, and puts all in force.
func (a *accounts) reload(ctx context.Context) error {
	lines, stamp, err := readSigners(a.path)
	if err != nil {
		return err
	}
	ids, err := a.enrol(ctx, lines)
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	byKey := map[string][]enrolment{}
	for _, l := range lines {
		k := string(l.Key.Marshal())
		e := enrolment{ids[l.Principals[0]], l}
		if have := byKey[k]; len(have) > 0 && have[0].account != e.account {
			return fmt.Errorf("accounts: %s: key %s stands under two names, %s and %s",
				a.path, sshid.Fingerprint(l.Key), have[0].account.Name, e.account.Name)
		}
		byKey[k] = append(byKey[k], e)
	}
	a.mu.Lock()
	a.byKey, a.stamp = byKey, stamp
	a.mu.Unlock()
	a.log.Info("accounts loaded", "keys", len(byKey), "accounts", len(ids))
	return nil
}

func readSigners(path string) ([]sshid.AllowedSigner, fileStamp, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileStamp{}, fmt.Errorf("accounts: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fileStamp{}, fmt.Errorf("accounts: %w", err)
	}
	lines, err := sshid.ParseAllowedSigners(f)
	if err != nil {
		return nil, fileStamp{}, fmt.Errorf("accounts: %s: %w", path, err)
	}
	for _, l := range lines {
		if err := checkEnrolment(l); err != nil {
			return nil, fileStamp{}, fmt.Errorf("accounts: %s: %w", path, err)
		}
	}
	return lines, fileStamp{st.ModTime(), st.Size()}, nil
}

// enrol returns the account of each principal, making those that are new.
func (a *accounts) enrol(ctx context.Context, lines []sshid.AllowedSigner) (map[string]account, error) {
	found := map[string]*account{}
	var added []*operation
	err := a.store.View(ctx, func(r store.Reader) error {
		for _, l := range lines {
			name := l.Principals[0]
			if found[name] != nil {
				continue
			}
			found[name] = &account{}
			err := getJSON(r, bucketAccounts, name, found[name])
			if errors.Is(err, store.ErrNotFound) {
				added = append(added, newAccount(name, found[name]))
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, a.commits.doAll(added)); err != nil {
		return nil, err
	}
	out := map[string]account{}
	for name, acc := range found {
		out[name] = *acc
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
