package verifier

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

const (
	// maxRequest bounds a body, bytes: a claim is 2 KiB, a credential 16.
	maxRequest   = 64 << 10
	maxHeader    = 16 << 10
	vouchTimeout = 18 * time.Second // nodes wait for 20
	relayTimeout = vouchTimeout
)

// times that connections may take.
var times = service.Times{
	Header: 5 * time.Second, Read: 10 * time.Second, Write: 40 * time.Second, Idle: 30 * time.Second,
	Shutdown: 10 * time.Second,
}

// call answers one call of the interface, or returns an error.
type call func(w http.ResponseWriter, r *http.Request, body []byte) error

// Handler returns the verifier's HTTP interface.
func (v *Verifier) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/vouch", v.inTurn(v.config.Limits.Concurrent, v.serveVouch))
	if v.relay != nil {
		// Turns of their own: a key service that hangs must not keep
		// nodes that reach it otherwise from their vouchers.
		relay := v.inTurn(v.config.Limits.Relayed, v.serveRelay)
		mux.Handle("GET /v1/service", relay)
		mux.Handle("POST /v1/nonces", relay)
		mux.Handle("POST /v1/release", relay)
	}
	v.front.Health(mux, &v.conditions, func(context.Context) { v.conditions.SetCertificate(v.cert, v.config.Now()) })
	mux.Handle("/", v.front.Handler(func(_ http.ResponseWriter, r *http.Request) error {
		if err := v.front.Admit(r); err != nil {
			return err
		}
		return service.Refuse(keyapi.CodeNotFound, "the verifier has no such call").
			WithHint("it takes POST /v1/vouch and, if it knows the key service, relays what nodes need of it")
	}))
	return mux
}

// Serve answers on ln with TLS 1.3 until ctx ends, then finishes what is under way.
func (v *Verifier) Serve(ctx context.Context, ln net.Listener, cert tls.Certificate) error {
	v.cert = cert
	return v.front.Serve(ctx, ln, cert, v.Handler())
}

// inTurn returns a handler that runs next, atWork at once, within the time that
// a request has. The body, which is small, is read before, so that slow senders
// hold no turn.
func (v *Verifier) inTurn(atWork int, next call) http.Handler {
	turns := gate.NewFairQueue(atWork, waiting*atWork)
	return v.front.Handler(func(w http.ResponseWriter, r *http.Request) error {
		if err := v.front.Admit(r); err != nil {
			return err
		}
		body, done, err := v.body(w, r)
		if err != nil {
			return err
		}
		defer done()
		ctx, cancel := context.WithTimeout(r.Context(), vouchTimeout)
		defer cancel()
		leave, err := v.front.Enter(ctx, turns, r)
		if err != nil {
			return err
		}
		defer leave()
		return next(w, r.WithContext(ctx), body)
	})
}

func (v *Verifier) body(w http.ResponseWriter, r *http.Request) (body []byte, done func(), err error) {
	body, done, err = v.front.Body(w, r, maxRequest)
	if err != nil && !errors.Is(err, gate.ErrBusy) {
		err = service.Refuse(keyapi.CodeBadRequest, "the body is cut or too large").WithCause(err)
	}
	return body, done, err
}

func (v *Verifier) serveVouch(w http.ResponseWriter, r *http.Request, body []byte) error {
	var q keyapi.VouchRequest
	voucher, err := v.vouch(r.Context(), body, &q)
	var answer keyapi.VouchResponse
	if err == nil {
		answer.Voucher, err = manifest.SignJWS(manifest.TypeVoucher, v.config.Key, voucher)
	}
	c := q.Claim
	log := v.config.Log.With("remote", r.RemoteAddr, "service", clip(q.Service), "node", clip(c.Node), "job", c.Job.ID,
		"array_task", c.Job.ArrayTask, "restart", c.Job.Restart, "manifest", c.Manifest)
	if err != nil {
		log.Warn("refused", "reason", err.Error())
		return err
	}
	log.Info("vouched", "uid", voucher.UID, "user", voucher.User, "account", voucher.Account,
		"partition", voucher.Partition)
	keyapi.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// vouch reads a request into q and returns what is vouched for.
func (v *Verifier) vouch(ctx context.Context, body []byte, q *keyapi.VouchRequest) (keyapi.Voucher, error) {
	if err := manifest.DecodeJSON(body, q); err != nil {
		return keyapi.Voucher{}, service.Refuse(keyapi.CodeBadRequest, "the body is not a request for a voucher").
			WithCause(err)
	}
	return v.check(ctx, *q)
}

// clip bounds what a stranger may write into the log.
func clip(s string) string { return s[:min(len(s), 256)] }
