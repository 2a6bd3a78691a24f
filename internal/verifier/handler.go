package verifier

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
	"github.com/sealbatch/sealbatch/internal/manifest"
)

const (
	// maxRequest bounds a body, bytes: a claim is 2 KiB, a credential 16.
	maxRequest   = 64 << 10
	vouchTimeout = 18 * time.Second // nodes wait for 20
	relayTimeout = vouchTimeout
	shutdownTime = 10 * time.Second
	retryAfter   = "1" // seconds, with 429 and 503
)

// Handler returns the verifier's HTTP interface.
func (v *Verifier) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/vouch", inTurn(v.config.Limits.Concurrent, v.serveVouch))
	if v.relay != nil {
		// Turns of their own: a key service that hangs must not keep
		// nodes that reach it otherwise from their vouchers.
		relay := inTurn(v.config.Limits.Relayed, v.serveRelay)
		mux.Handle("GET /v1/service", relay)
		mux.Handle("POST /v1/nonces", relay)
		mux.Handle("POST /v1/release", relay)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &refusal{code: keyapi.CodeNotFound, message: "the verifier has no such call",
			hint: "it takes POST /v1/vouch and, if it knows the key service, relays what nodes need of it"})
	})
	return v.limited(mux)
}

// Serve answers on ln with TLS 1.3 until ctx ends, then finishes what is under way.
func (v *Verifier) Serve(ctx context.Context, ln net.Listener, cert tls.Certificate) error {
	srv := v.server()
	srv.TLSConfig.Certificates = []tls.Certificate{cert}
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(v.gate.Listener(ln), "", "") }()
	select {
	case err := <-ended:
		return fmt.Errorf("verifier: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	return srv.Shutdown(grace)
}

func (v *Verifier) server() *http.Server {
	http1 := new(http.Protocols) // one request a connection at a time: what is counted is what there is
	http1.SetHTTP1(true)
	return &http.Server{
		Handler:           v.Handler(),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13},
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      40 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ConnState:         v.gate.ConnState,
		Protocols:         http1,
		ErrorLog:          slog.NewLogLogger(v.config.Log.Handler(), slog.LevelDebug),
	}
}

// limited bounds what an address asks for, and reads the body, which is small,
// so that slow senders hold no turn.
func (v *Verifier) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !v.gate.Allow(r.RemoteAddr) {
			writeError(w, &refusal{code: keyapi.CodeTooMany, message: "too many requests from this address"})
			return
		}
		body, done, err := v.gate.Body(w, r, maxRequest)
		if errors.Is(err, gate.ErrBusy) {
			writeError(w, &refusal{code: keyapi.CodeTooMany, message: "the verifier is busy with other requests"})
			return
		}
		if err != nil {
			writeError(w, &refusal{code: keyapi.CodeBadRequest, message: "the body is cut or too large"})
			return
		}
		defer done()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), bodyKey{}, body)))
	})
}

// inTurn runs next when it has its turn, atWork at once, within the time that
// a request has.
func inTurn(atWork int, next http.HandlerFunc) http.Handler {
	turns := gate.NewFairQueue(atWork, waiting*atWork)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), vouchTimeout)
		defer cancel()
		leave, err := turns.Enter(ctx, r.RemoteAddr)
		if err != nil {
			writeError(w, &refusal{code: keyapi.CodeTooMany, message: "the verifier is busy"})
			return
		}
		defer leave()
		next(w, r.WithContext(ctx))
	})
}

// bodyKey is the context key of the request's body, read already.
type bodyKey struct{}

func bodyOf(r *http.Request) []byte {
	b, _ := r.Context().Value(bodyKey{}).([]byte)
	return b
}

func (v *Verifier) serveVouch(w http.ResponseWriter, r *http.Request) {
	var q keyapi.VouchRequest
	err := manifest.DecodeJSON(bodyOf(r), &q)
	if err != nil {
		err = &refusal{code: keyapi.CodeBadRequest, message: "the body is not a request for a voucher", err: err}
	}
	var voucher keyapi.Voucher
	var answer keyapi.VouchResponse
	if err == nil {
		voucher, err = v.check(r.Context(), q)
	}
	if err == nil {
		answer.Voucher, err = manifest.SignJWS(manifest.TypeVoucher, v.config.Key, voucher)
	}
	c := q.Claim
	log := v.config.Log.With("remote", r.RemoteAddr, "service", clip(q.Service), "node", clip(c.Node), "job", c.JobID,
		"array_task", c.ArrayTask, "restart", c.Restart, "manifest", clip(c.Manifest))
	if err != nil {
		log.Warn("refused", "reason", err.Error())
		writeError(w, asRefusal(err))
		return
	}
	log.Info("vouched", "uid", voucher.UID, "user", voucher.User, "account", voucher.Account, "partition", voucher.Partition)
	keyapi.WriteJSON(w, http.StatusOK, answer)
}

// clip bounds what a stranger may write into the log.
func clip(s string) string { return s[:min(len(s), 256)] }

var statusOf = map[string]int{
	keyapi.CodeBadRequest:  http.StatusBadRequest,
	keyapi.CodeAttestation: http.StatusForbidden,
	keyapi.CodeNotFound:    http.StatusNotFound,
	keyapi.CodeTooMany:     http.StatusTooManyRequests,
	keyapi.CodeInternal:    http.StatusInternalServerError,
	keyapi.CodeUnavailable: http.StatusServiceUnavailable,
}

func asRefusal(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	return &refusal{code: keyapi.CodeInternal, message: "internal error of the verifier",
		hint: "the cluster's administrator finds the reason in the verifier's log"}
}

func writeError(w http.ResponseWriter, r *refusal) {
	status := statusOf[r.code]
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	keyapi.WriteJSON(w, status, keyapi.Error{Code: r.code, Message: r.message, Hint: r.hint})
}
