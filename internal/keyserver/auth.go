package keyserver

import (
	"encoding/base64"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/text"
)

var requestNonceRE = regexp.MustCompile(`^[0-9a-f]{32}$`)

// caller is who signed a request.
type caller struct {
	account account
	key     string // fingerprint
	at      time.Time
}

// authenticate checks who signed a request, that its body is the one whose digest
// was signed, and that its nonce was never seen.
func (s *Server) authenticate(r *http.Request, body []byte) (caller, error) {
	c, digest, err := s.identify(r)
	if err != nil {
		return caller{}, err
	}
	if manifest.DigestOf(body) != digest {
		return caller{}, service.Refuse(keyapi.CodeUnauthorised,
			"the request's body is not what header %s names", keyapi.HeaderDigest)
	}
	if err := s.replays.use(c.account.ID, r.Header.Get(keyapi.HeaderNonce), c.at); err != nil {
		return caller{}, err
	}
	return c, nil
}

// identify returns who signed a request, and the digest of its body that was signed. It
// looks at the headers only: at a signature over method, path, query and digest, for the
// right namespace and service, an enrolled key, a time near the service's. The nonce is
// not used up.
func (s *Server) identify(r *http.Request) (c caller, body manifest.Digest, err error) {
	c, body, err = s.signer(r, s.now())
	if err != nil {
		return caller{}, body, err
	}
	c.account, err = s.accounts.lookup(c.key, keyapi.Namespace, c.at)
	if err != nil {
		return caller{}, body, s.notEnrolled(keyapi.CodeUnauthorised, err)
	}
	return c, body, nil
}

// signer returns whose key signed a request, enrolled or not.
func (s *Server) signer(r *http.Request, now time.Time) (c caller, body manifest.Digest, err error) {
	sig, err := base64.StdEncoding.Strict().DecodeString(r.Header.Get(keyapi.HeaderSignature))
	if err != nil || len(sig) == 0 {
		return c, body, service.Refuse(keyapi.CodeUnauthorised,
			"the request is not signed: header %s is missing or damaged", keyapi.HeaderSignature)
	}
	if body, err = keyapi.ParseContentDigest(r.Header.Values(keyapi.HeaderDigest)); err != nil {
		return c, body, service.Refuse(keyapi.CodeUnauthorised, "%w", err)
	}
	unix, err := strconv.ParseInt(r.Header.Get(keyapi.HeaderTime), 10, 64)
	if err != nil {
		return c, body, service.Refuse(keyapi.CodeUnauthorised, "header %s is not a number of seconds", keyapi.HeaderTime)
	}
	nonce := r.Header.Get(keyapi.HeaderNonce)
	if !requestNonceRE.MatchString(nonce) {
		return c, body, service.Refuse(keyapi.CodeUnauthorised, "header %s is not 32 hex digits", keyapi.HeaderNonce)
	}
	if err := s.checkTime(unix, now); err != nil {
		return c, body, err
	}
	msg := keyapi.SigningInput(s.id, r.Method, r.URL.RequestURI(), body, unix, nonce)
	key, err := sshid.VerifySSH(keyapi.Namespace, msg, sig)
	if err != nil {
		return c, body, service.Refuse(keyapi.CodeUnauthorised, "request signature: %w", err)
	}
	return caller{key: ssh.FingerprintSHA256(key), at: now}, body, nil
}

// notEnrolled refuses a key. It may be enrolled in a moment if the file of accounts
// is being changed.
func (s *Server) notEnrolled(code string, err error) *service.Refusal {
	if s.accounts.uncertain() {
		return service.Refuse(code, "%w", err).AsRetryable().
			WithHint("the key service's file of accounts has just been changed, or holds an error: tell its administrator")
	}
	return service.Refuse(code, "%w", err).WithHint("ask the key service's administrator to enrol the key")
}

// checkTime also refuses what was signed before the service started, since
// the nonces seen by then are forgotten.
func (s *Server) checkTime(unix int64, now time.Time) error {
	at := time.Unix(unix, 0)
	if d := at.Sub(now); d > keyapi.MaxSkew || d < -keyapi.MaxSkew {
		return service.Refuse(keyapi.CodeUnauthorised,
			"this machine's clock is %s the key service's: the request was signed at %s, the key service's clock says %s",
			text.AheadOf(d), at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)).
			WithHint("set the clock that is wrong: more than %s apart is refused", keyapi.MaxSkew)
	}
	if unix < s.started.Unix() {
		return service.Refuse(keyapi.CodeUnauthorised, "the request was signed before the key service was started").
			WithHint("try again; if it stays so, this machine's clock is slow").AsRetryable()
	}
	return nil
}
