package keyserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/service"
)

// request is one request at work.
type request struct {
	ctx    context.Context
	srv    *Server
	body   []byte
	dear   bool   // it takes turns with those that take a processor for long
	volume string // of the path, a valid id
	// manifest is the digest in the path.
	manifest manifest.Digest
	query    string // of the path, as it was sent
	remote   string
	caller   caller       // who signed it, if it had to be signed
	ev       *audit.Event // what is written down of it
	noted    bool         // ev is in the log
	quiet    bool         // one of too many refusals
}

// decode reads the body strictly.
func (q *request) decode(v any) error {
	if err := manifest.DecodeJSON(q.body, v); err != nil {
		return service.Refuse(keyapi.CodeBadRequest, "request body: %w", err)
	}
	return nil
}

// event names what the request does; if a handler fails before its commit,
// it is recorded as refused.
func (q *request) event(name, outcome string) *audit.Event {
	q.ev = &audit.Event{Event: name, Outcome: outcome, Remote: q.remote, Account: q.caller.account.ID,
		User: q.caller.account.Name, Key: q.caller.key}
	if q.volume != "" {
		q.ev.Volumes = []string{q.volume}
	}
	return q.ev
}

// commit decides op and records ev, whatever the outcome.
func (q *request) commit(ev *audit.Event, op func(store.Writer) error) (string, error) {
	q.noted = true
	if op != nil && q.caller.key != "" {
		decide := op
		op = func(w store.Writer) error {
			// The key may have been removed while the request was under way.
			a := attest.Authority{Account: q.caller.account.ID, Key: q.caller.key, At: q.caller.at}
			if why := q.srv.enrolled(a, keyapi.Namespace); why != "" {
				return service.Refuse(keyapi.CodeUnauthorised, "the SSH key %s %s", q.caller.key, why)
			}
			return decide(w)
		}
	}
	r := q.srv.commits.decided(&operation{event: ev, op: op, who: q.who()})
	q.quiet = r.omitted
	return r.head, r.err
}

// route is one call of the API.
type route struct {
	pattern string
	event   string // written down when the call is refused; "" for calls that ask for nothing
	signed  bool
	max     int64 // body, bytes; 0 for the configured bound
	handle  func(*Server, *request) (any, error)
}

// The largest bodies of calls, in bytes: what calls hold that anyone may make is
// small, and so is a policy. Only manifests may have the configured bound.
const (
	maxReleaseBody = 64 << 10
	maxSmallBody   = 4 << 10
	maxPolicyBody  = 2 * manifest.MaxPolicy
	maxSecretBody  = maxPolicyBody + maxSmallBody
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range []route{
		{"GET /v1/service", "", false, maxSmallBody, (*Server).describe},
		{"PUT /v1/secrets/{volume}", "secret.put", true, maxSecretBody, (*Server).putSecret},
		{"GET /v1/secrets", "secret.list", true, maxSmallBody, (*Server).listSecrets},
		{"GET /v1/secrets/{volume}", "secret.get", true, maxSmallBody, (*Server).getSecret},
		{"GET /v1/secrets/{volume}/log", "secret.log", true, maxSmallBody, (*Server).secretLog},
		{"GET /v1/secrets/{volume}/jobs", "secret.jobs", true, maxSmallBody, (*Server).secretJobs},
		{"PUT /v1/secrets/{volume}/policy", "secret.policy", true, maxPolicyBody, (*Server).putPolicy},
		{"POST /v1/secrets/{volume}/revoke", "secret.revoke", true, maxSmallBody, (*Server).revokeSecret},
		{"DELETE /v1/secrets/{volume}", "secret.delete", true, maxSmallBody, (*Server).deleteSecret},
		{"POST /v1/manifests", "manifest.register", true, 0, (*Server).newManifest},
		{"GET /v1/manifests", "manifest.list", true, maxSmallBody, (*Server).listManifests},
		{"GET /v1/manifests/{manifest}", "manifest.get", true, maxSmallBody, (*Server).getManifest},
		{"POST /v1/tokens", "token.new", true, maxSmallBody, (*Server).newToken},
		{"POST /v1/nonces", "", false, maxSmallBody, (*Server).newNonce},
		{"POST /v1/release", "release", false, maxReleaseBody, (*Server).release},
		{"GET /v1/account", "account.get", true, maxSmallBody, (*Server).getAccount},
		{"GET /v1/audit/head", "audit.head", true, maxSmallBody, (*Server).auditHead},
	} {
		mux.Handle(r.pattern, s.serve(r))
	}
	s.front.Health(mux, s.conditions, s.look)
	mux.Handle("/", s.front.Handler(func(_ http.ResponseWriter, r *http.Request) error {
		if err := s.front.Admit(r); err != nil {
			return err
		}
		if strings.HasPrefix(r.URL.Path, "/api/") {
			return service.Refuse(keyapi.CodeNotFound, "no such call: this is a sealbatch key service, which HPCS's own clients cannot use")
		}
		return service.Refuse(keyapi.CodeNotFound, "no such call")
	}))
	return mux
}

// serve returns the handler of one call: look at who sends much, read, wait for a turn, authenticate,
// handle, record, answer. A slow sender or reader keeps no turn from others.
func (s *Server) serve(rt route) http.Handler {
	return s.front.Handler(func(w http.ResponseWriter, r *http.Request) error {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		q := &request{ctx: r.Context(), srv: s, remote: host, query: r.URL.RawQuery}
		q.event(rt.event, audit.OutcomeRefused)
		answer, err := s.admit(rt, q, w, r)
		if err != nil {
			return s.logRefusal(q, err)
		}
		s.front.Answer(w, r, answer)
		return nil
	})
}

// admit refuses what is too much, and runs the rest.
func (s *Server) admit(rt route, q *request, w http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.front.Admit(r); err != nil {
		return nil, err
	}
	most := s.limits.Body
	if rt.max > 0 {
		most = min(most, rt.max)
	}
	leaveLarge, err := s.admitLarge(rt, q, w, r, most)
	if err != nil {
		return nil, err
	}
	defer leaveLarge()
	body, done, err := s.front.Body(w, r, most)
	switch {
	case errors.Is(err, gate.ErrBusy):
		return nil, err
	case errors.Is(err, gate.ErrTooLarge):
		err = service.Refuse(keyapi.CodeBadRequest, "request body is larger than %d bytes", most)
	case err != nil:
		err = service.Refuse(keyapi.CodeBadRequest, "request body: %w", err)
	default:
		defer done()
	}
	q.body = body
	q.dear = rt.dear(body)
	leave, busy := s.turn(q, r)
	if busy != nil {
		return nil, busy
	}
	defer leave()
	var answer any
	if err == nil {
		answer, err = s.run(rt, q, r)
	}
	if err != nil && rt.event != "" && !q.noted {
		err = s.noteRefusal(q, err)
	}
	return answer, err
}

// manyElements are, by the commas between them, more than a job's registration has that expects few nodes or none.
const manyElements = 256

// dear reports whether a request takes a processor for long, by its body.
func (rt route) dear(body []byte) bool {
	return len(body) > gate.SmallBody || rt.max == 0 && bytes.Count(body, []byte(",")) > manyElements
}

// turn waits for the request's turn at work. Those with large bodies take turns
// among themselves first: reading one takes a processor for a third of a second; and with them
// the registrations of jobs that expect many nodes, whose names are held against policies.
func (s *Server) turn(q *request, r *http.Request) (leave func(), err error) {
	wait, cancel := context.WithTimeout(q.ctx, turnTime)
	defer cancel()
	leaveLarge := func() {}
	if q.dear {
		if leaveLarge, err = s.front.Enter(wait, s.large, r); err != nil {
			return nil, err
		}
	}
	leaveQueue, err := s.front.Enter(wait, s.queue, r)
	if err != nil {
		leaveLarge()
		return nil, err
	}
	return func() {
		leaveQueue()
		leaveLarge()
	}, nil
}

// noteRefusal records that a request failed before it was decided.
func (s *Server) noteRefusal(q *request, err error) error {
	q.ev.Outcome, q.ev.Reason = audit.OutcomeRefused, auditReason(s.asRefusal(err))
	who := q.who()
	if who == "" {
		omitted, ok := s.unauthenticated.note(q.remote)
		if !ok {
			q.quiet = true
			return err
		}
		if omitted > 0 {
			q.ev.Reason += fmt.Sprintf(" (and %d refusals before it, too many to write down each)", omitted)
		}
	}
	r := s.commits.decided(&operation{event: q.ev, who: who})
	q.quiet = r.omitted
	if r.err != nil {
		return errors.Join(r.err, err)
	}
	return err
}

func (s *Server) run(rt route, q *request, r *http.Request) (any, error) {
	if v := r.PathValue("volume"); v != "" {
		if !names.ID(v) {
			return nil, service.Refuse(keyapi.CodeBadRequest, "%.80q is not a volume's id", v)
		}
		q.volume = v
		q.event(rt.event, audit.OutcomeRefused)
	}
	if rt.event != "" {
		_ = s.accounts.refresh(q.ctx) // its error is a condition: the request is held to what counts then
	}
	if rt.signed {
		c, err := s.authenticate(r, q.body)
		if err != nil {
			return nil, err
		}
		q.caller = c
		q.event(rt.event, audit.OutcomeRefused)
	}
	if v := r.PathValue("manifest"); v != "" {
		var err error
		if q.manifest, err = manifestOf(v); err != nil {
			return nil, err
		}
	}
	return rt.handle(s, q)
}

// logRefusal logs an error and returns what the caller may see of it.
func (s *Server) logRefusal(q *request, err error) *service.Refusal {
	r := s.asRefusal(err)
	switch {
	case r.Code == keyapi.CodeInternal || r.Code == keyapi.CodeUnavailable:
		s.log.Error("request failed", "event", q.ev.Event, "remote", q.remote, "error", err)
	case r.Code == keyapi.CodeTooMany || q.quiet: // a flood of these must not become one of lines
		s.log.Debug("request refused", "event", q.ev.Event, "remote", q.remote, "code", r.Code, "reason", r.Message)
	default:
		s.log.Info("request refused", "event", q.ev.Event, "remote", q.remote, "code", r.Code, "reason", r.Message)
	}
	return r
}
