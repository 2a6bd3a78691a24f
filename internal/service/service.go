// Package service is what the key service and the verifier have in common: a
// TLS listener whose peers can hold up nothing for long, an end that lets
// requests finish, bounds on what is taken on (package gate), and refusals,
// which are errors that say what the caller may see of them.
//
// A request passes these points, in this order:
//
//	Listener   gate     connections, of all and of one address
//	Handler    Admit    requests a second of one address
//	           Body     bytes of one body, and of all that are held
//	           Enter    requests at work; the others wait, addresses take turns
//	           ...      the service's own work
//	Refuse...  Handler  an error becomes a status and a keyapi.Error
package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyapi"
)

// ErrAtWork says that requests were still at work when the time to finish them
// was over.
var ErrAtWork = errors.New("requests are still at work")

// Times bound how long a connection may take: to send a request's headers, to
// send all of it, to be answered, and to send the next one. Shutdown is how long
// requests may take that are under way at the end.
type Times struct{ Header, Read, Write, Idle, Shutdown time.Duration }

// Config says what a service is. All but Log is required.
type Config struct {
	Name      string // in errors and refusals, as in "the NAME is busy"
	LogHint   string // tells a caller where the reason of an internal error is found
	Limits    gate.Limits
	Times     Times
	MaxHeader int          // bytes of a request's headers
	Log       *slog.Logger // nil discards
}

// Default sets a limit that is not set, which is one that is not positive.
func Default[N int | int64 | float64](limit *N, value N) {
	if *limit <= 0 {
		*limit = value
	}
}

// Service is the part of a service that does not depend on what it does.
type Service struct {
	config Config
	gate   *gate.Gate
}

// New returns a service.
func New(c Config) *Service {
	c.Log = Logger(c.Log)
	return &Service{config: c, gate: gate.New(c.Limits)}
}

// Logger returns l, or a logger that discards if l is nil.
func Logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// Serve answers on ln with TLS 1.3 until ctx ends, then waits for the requests
// that are under way. ErrAtWork says that some did not finish in time.
func (s *Service) Serve(ctx context.Context, ln net.Listener, cert tls.Certificate, h http.Handler) error {
	srv := s.server(cert, h)
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(s.gate.Listener(ln), "", "") }()
	select {
	case err := <-ended:
		return fmt.Errorf("%s: %w", s.config.Name, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.Times.Shutdown)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		return fmt.Errorf("%s: stop: %w: %w", s.config.Name, ErrAtWork, err)
	}
	return nil
}

func (s *Service) server(cert tls.Certificate, h http.Handler) *http.Server {
	http1 := new(http.Protocols) // one request a connection at a time: what is counted is what there is
	http1.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}},
		ReadHeaderTimeout: s.config.Times.Header,
		ReadTimeout:       s.config.Times.Read,
		WriteTimeout:      s.config.Times.Write,
		IdleTimeout:       s.config.Times.Idle,
		MaxHeaderBytes:    s.config.MaxHeader,
		ConnState:         s.gate.ConnState,
		ConnContext:       s.gate.ConnContext,
		Protocols:         http1,
		ErrorLog:          slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug),
	}
}

// Admit refuses a request of an address that makes too many.
func (s *Service) Admit(r *http.Request) error {
	if !s.gate.Allow(r.RemoteAddr) {
		return Refuse(keyapi.CodeTooMany, "too many requests from this address")
	}
	return nil
}

// Body reads a request's body, most bytes at most. The caller calls done when
// it needs the body no more. Errors are those of gate.Gate.Body; gate.ErrBusy is
// a refusal, too.
func (s *Service) Body(w http.ResponseWriter, r *http.Request, most int64) (body []byte, done func(), err error) {
	body, done, err = s.gate.Body(w, r, most)
	if err != nil { // else the rest would be waited for
		w.Header().Set("Connection", "close")
	}
	if errors.Is(err, gate.ErrBusy) {
		err = Refuse(keyapi.CodeTooMany, "the %s is busy with other requests", s.config.Name).WithCause(err)
	}
	return body, done, err
}

// answerTime is how long a peer may take to read an answer.
const answerTime = 20 * time.Second

// Answer writes an answer. Whoever does not read it is not waited for longer than that, and keeps no place from others.
func (s *Service) Answer(w http.ResponseWriter, r *http.Request, v any) {
	s.gate.Answering(r)
	// A writer that knows no deadlines has no connection that could be slow.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
	keyapi.WriteJSON(w, http.StatusOK, v)
}

// Enter waits until q admits a request, at most until ctx ends. The caller
// calls leave when the request is done. The error is a refusal.
func (s *Service) Enter(ctx context.Context, q *gate.FairQueue, r *http.Request) (leave func(), err error) {
	leave, err = q.Enter(ctx, r.RemoteAddr)
	if err != nil {
		return nil, Refuse(keyapi.CodeTooMany, "the %s is busy", s.config.Name)
	}
	return leave, nil
}
