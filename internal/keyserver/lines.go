package keyserver

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/service"
)

// What the audit log has of one account, or of one user who showed evidence, so
// that nobody can fill the disk under it.
const (
	// Lines of what changed nothing: refusals, readings, repeats. Beyond that they
	// are counted, and the next line says how many there were.
	idleLines, idleLinesPerSecond = 300, 1
	// Units of what was changed, used nonces among it: one for each line and one for
	// each full 2 KiB of what its caller made it say. Beyond that it is refused. A job of
	// four volumes, two units a node, on as many nodes as one can have tokens for is no more.
	changeUnits, changeUnitsPerSecond = 1 << 18, 3
	unitBytes                         = 2 << 10
	// changeBytes is what a change of a record takes of a line beside its names: two
	// digests of 43 letters, and what stands between.
	changeBytes = 120
)

// unitsOf returns what of a budget an entry takes that changes some records.
func unitsOf(e *audit.Event, changed [][2]string) int {
	bytes := 0
	for _, p := range []*audit.Policy{e.Policy, e.PolicyBefore} {
		if p != nil {
			bytes += len(p.Content)
		}
	}
	for _, names := range [][]string{e.Volumes, e.Policies} {
		for _, n := range names {
			bytes += len(n) + len(`"",`)
		}
	}
	for _, c := range changed {
		bytes += len(c[0]) + len(c[1]) + changeBytes
	}
	return 1 + bytes/unitBytes
}

// lines are the budgets for lines of the audit log.
type lines struct {
	mu sync.Mutex
	of map[string]*budget // by account id, or as evidence names a user
}

type budget struct {
	idle, changes *rate.Limiter
	omitted       int // lines since the last one that says so
}

func newLines() *lines { return &lines{of: map[string]*budget{}} }

func (l *lines) budget(who string) *budget {
	b := l.of[who]
	if b == nil {
		b = &budget{idle: rate.NewLimiter(idleLinesPerSecond, idleLines),
			changes: rate.NewLimiter(changeUnitsPerSecond, changeUnits)}
		l.of[who] = b
	}
	return b
}

// note reports whether something of who's that changed nothing is written down,
// and says in its entry how many before it were not.
func (l *lines) note(who string, e *audit.Event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.budget(who)
	if !b.idle.Allow() {
		b.omitted++
		return false
	}
	if b.omitted > 0 {
		e.Reason = strings.TrimSpace(fmt.Sprintf("%s (and %s)", e.Reason, tooMany(b.omitted)))
		b.omitted = 0
	}
	return true
}

func tooMany(n int) string {
	return fmt.Sprintf("%d refusals, readings and repeats before it, too many to write down each", n)
}

// change refuses a change of who's that takes too much of the log.
func (l *lines) change(who string, units int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.budget(who).changes.AllowN(time.Now(), units) {
		return nil
	}
	return service.Refuse(keyapi.CodeTooMany,
		"too many changes by one account or user: %d at once, %d a second in the long run; one that takes much "+
			"of the audit log counts as several, one more for each %d bytes", changeUnits, changeUnitsPerSecond, unitBytes)
}

// sweep returns entries about what was not written down, and forgets budgets that
// are whole again.
func (l *lines) sweep() (out []*audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for who, b := range l.of {
		if b.omitted > 0 {
			e := &audit.Event{Event: "omitted", Outcome: audit.OutcomeDone, Account: who, Reason: tooMany(b.omitted)}
			if strings.Contains(who, " ") { // no account's id
				e.Account, e.User = "", who
			}
			out = append(out, e)
			b.omitted = 0
		}
		if b.idle.Tokens() >= idleLines && b.changes.Tokens() >= changeUnits {
			delete(l.of, who)
		}
	}
	return out
}

// who names whose budget a request's line is taken from; "" if the request showed
// neither an enrolled key nor evidence.
func (q *request) who() string {
	switch e := q.ev; {
	case q.caller.account.ID != "":
		return q.caller.account.ID
	case e.Attestor == "":
		return ""
	case e.UID != nil && *e.UID >= 0 && e.Job != nil:
		return fmt.Sprintf("user %s of cluster %s", e.User, e.Job.Cluster)
	}
	return "evidence of user " + q.ev.User
}
