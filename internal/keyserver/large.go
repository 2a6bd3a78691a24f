package keyserver

import (
	"net/http"

	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/service"
)

// admitLarge decides by a request's headers whether the service takes a large body in,
// for which it has little room: only of an enrolled account that signed its digest, one
// at a time of each. Nothing of it has been read by then. The caller calls leave
// when the request is done.
func (s *Server) admitLarge(
	rt route, q *request, w http.ResponseWriter, r *http.Request, most int64,
) (leave func(), err error) {
	size := r.ContentLength
	if size < 0 { // it may become as large
		size = most
	}
	if !rt.signed || size <= gate.SmallBody || size > most {
		return func() {}, nil
	}
	defer func() {
		if err != nil { // else what was announced would be waited for
			w.Header().Set("Connection", "close")
		}
	}()
	if err := s.lookAhead(rt, q, r); err != nil {
		return nil, err
	}
	account := q.caller.account.ID
	if _, busy := s.largeOf.LoadOrStore(account, nil); busy {
		return nil, service.Refuse(keyapi.CodeTooMany, "another large request of this account is under way")
	}
	return func() { s.largeOf.Delete(account) }, nil
}

// lookAhead has the request be its signer's from now on, by its headers, which authenticate
// looks at again when the body is there.
func (s *Server) lookAhead(rt route, q *request, r *http.Request) error {
	leave, err := s.turn(q, r)
	if err != nil {
		return err
	}
	defer leave()
	_ = s.accounts.refresh(q.ctx) // its error is a condition, as in run
	c, _, err := s.identify(r)
	if err != nil {
		return s.noteRefusal(q, err)
	}
	q.caller = c
	q.event(rt.event, audit.OutcomeRefused)
	return nil
}
