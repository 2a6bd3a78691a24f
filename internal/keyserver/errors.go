package keyserver

import (
	"errors"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/service"
)

// logHint is what callers are told of errors inside the service.
const logHint = "its administrator finds the reason in the service's log"

// asRefusal returns what the caller may see of any error.
func (s *Server) asRefusal(err error) *service.Refusal {
	if errors.Is(err, audit.ErrWrite) {
		return service.Refuse(keyapi.CodeUnavailable, "the key service cannot write its audit log or store; nothing was done").
			WithHint(logHint)
	}
	return s.front.AsRefusal(err)
}

// auditReason returns err's text, bounded.
func auditReason(err error) string {
	const most = 400
	s := err.Error()
	if len(s) > most {
		s = s[:most]
	}
	return s
}
