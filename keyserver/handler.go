package keyserver

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/sealbatch/sealbatch/keyapi"
)

// request is one request at work.
type request struct {
	ctx    context.Context
	srv    *Server
	body   []byte
	volume string // of the path, a valid id
	remote string
	caller caller // who signed it, if it had to be signed
	ev     *Event // what is written down of it
	noted  bool   // ev is in the log
}

// decode reads the body strictly.
func (q *request) decode(v any) error {
	if err := keyapi.Decode(q.body, v); err != nil {
		return refuse(keyapi.CodeBadRequest, "request body: %w", err)
	}
	return nil
}

// event names what the request does; if a handler fails before its commit,
// this is written down as refused.
func (q *request) event(name, outcome string) *Event {
	q.ev = &Event{Event: name, Outcome: outcome, Remote: q.remote, Account: q.caller.account.ID,
		User: q.caller.account.Name, Key: q.caller.key}
	if q.volume != "" {
		q.ev.Volumes = []string{q.volume}
	}
	return q.ev
}

// commit decides op and writes ev down, whatever the outcome.
func (q *request) commit(ev *Event, op func(Writer) error) (string, error) {
	q.noted = true
	return q.srv.commits.do(ev, op)
}

// route is one call of the API.
type route struct {
	pattern string
	event   string // written down when the call is refused; "" for calls that ask for nothing
	signed  bool
	max     int64 // body, bytes; 0 for the configured bound
	handle  func(*Server, *request) (any, error)
}

// Bodies of calls that anyone may make are small.
const (
	maxReleaseBody = 64 << 10
	maxSmallBody   = 4 << 10
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range []route{
		{"GET /v1/service", "", false, maxSmallBody, (*Server).describe},
		{"PUT /v1/secrets/{volume}", "secret.put", true, 0, (*Server).putSecret},
		{"GET /v1/secrets", "secret.list", true, maxSmallBody, (*Server).listSecrets},
		{"GET /v1/secrets/{volume}", "secret.get", true, maxSmallBody, (*Server).getSecret},
		{"PUT /v1/secrets/{volume}/policy", "secret.policy", true, 0, (*Server).putPolicy},
		{"POST /v1/secrets/{volume}/revoke", "secret.revoke", true, maxSmallBody, (*Server).revokeSecret},
		{"POST /v1/manifests", "manifest.register", true, 0, (*Server).newManifest},
		{"POST /v1/tokens", "token.new", true, maxSmallBody, (*Server).newToken},
		{"POST /v1/nonces", "", false, maxSmallBody, (*Server).newNonce},
		{"POST /v1/release", "release", false, maxReleaseBody, (*Server).release},
		{"GET /v1/audit/head", "audit.head", true, maxSmallBody, (*Server).auditHead},
	} {
		mux.Handle(r.pattern, s.serve(r))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, refuse(keyapi.CodeNotFound, "no such call"))
	})
	return mux
}

// serve runs one call: read, authenticate, handle, write down, answer.
func (s *Server) serve(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		q := &request{ctx: r.Context(), srv: s, remote: host}
		q.event(rt.event, OutcomeRefused)
		answer, err := s.run(rt, q, w, r)
		if err != nil && rt.event != "" && !q.noted {
			q.ev.Outcome, q.ev.Reason = OutcomeRefused, auditReason(asRefusal(err))
			if _, auditErr := s.commits.do(q.ev, nil); auditErr != nil {
				err = errors.Join(auditErr, err)
			}
		}
		if err != nil {
			s.fail(w, q, err)
			return
		}
		keyapi.WriteJSON(w, http.StatusOK, answer)
	})
}

func (s *Server) run(rt route, q *request, w http.ResponseWriter, r *http.Request) (any, error) {
	if v := r.PathValue("volume"); v != "" {
		if !keyapi.ValidVolumeID(v) {
			return nil, refuse(keyapi.CodeBadRequest, "%.80q is not a volume's id", v)
		}
		q.volume = v
		q.event(rt.event, OutcomeRefused)
	}
	most := s.limits.Body
	if rt.max > 0 {
		most = min(most, rt.max)
	}
	var err error
	q.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, refuse(keyapi.CodeBadRequest, "request body is larger than %d bytes", most)
	}
	if err != nil {
		return nil, refuse(keyapi.CodeBadRequest, "request body: %w", err)
	}
	if rt.signed {
		s.accounts.refresh(q.ctx, s.now())
		if q.caller, err = s.authenticate(r, q.body); err != nil {
			return nil, err
		}
		q.event(rt.event, OutcomeRefused)
	}
	return rt.handle(s, q)
}

// fail answers an error, and logs what the caller is not told.
func (s *Server) fail(w http.ResponseWriter, q *request, err error) {
	r := asRefusal(err)
	switch r.code {
	case keyapi.CodeInternal, keyapi.CodeUnavailable:
		s.log.Error("request failed", "event", q.ev.Event, "remote", q.remote, "error", err)
	default:
		s.log.Info("request refused", "event", q.ev.Event, "remote", q.remote, "code", r.code, "reason", r.msg)
	}
	writeError(w, r)
}
