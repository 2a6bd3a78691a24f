package keyserver

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/internal/text"
)

// bucketNonces holds the nonces that evidence used up, by nonceKey: empty.
const bucketNonces = "used-nonces"

// A nonce is time and chance, and the MAC of both:
//
//	seconds since 1970 (4, big endian) | random (12) | HMAC-SHA256, its first bytes (16)
const (
	nonceTime = 4
	nonceHead = nonceTime + 12
)

// nonceSkew is by how much the service's clock may be set back without a nonce
// being good twice: a used one is remembered for so much longer than it is good.
const nonceSkew = keyapi.MaxSkew

// nonces makes the challenges to nodes, and judges them. Nothing is remembered of
// one that was only asked for, so that nobody can use up what others need; a used
// one, which cost evidence, is remembered in the store.
type nonces struct {
	key     []byte
	service string
}

func newNonces(key []byte, service string) nonces {
	if len(key) == 0 {
		key = make([]byte, sha256.Size)
		rand.Read(key) // never fails
	}
	return nonces{key, service}
}

// issue returns a new nonce that is good once, until it expires.
func (n nonces) issue(now time.Time) keyapi.Nonce {
	nonce := make([]byte, nonceHead, keyapi.NonceSize)
	binary.BigEndian.PutUint32(nonce, uint32(now.Unix()))
	rand.Read(nonce[nonceTime:]) // never fails
	return keyapi.Nonce{Nonce: append(nonce, n.mac(nonce)...), Expires: issued(nonce).Add(keyapi.NonceTTL).UTC()}
}

func (n nonces) mac(head []byte) []byte {
	m := hmac.New(sha256.New, n.key)
	m.Write([]byte("sealbatch nonce v1\x00" + n.service + "\x00"))
	m.Write(head)
	return m.Sum(nil)[:keyapi.NonceSize-nonceHead]
}

// issued returns when a nonce was made.
func issued(nonce []byte) time.Time { return time.Unix(int64(binary.BigEndian.Uint32(nonce)), 0) }

// check refuses what this service did not make a short while ago.
func (n nonces) check(nonce []byte, now time.Time) error {
	if len(nonce) != keyapi.NonceSize || !hmac.Equal(nonce[nonceHead:], n.mac(nonce[:nonceHead])) {
		return refuseNonce("the nonce is not one that this key service made")
	}
	if age := now.Sub(issued(nonce)); age > keyapi.NonceTTL || age < -nonceSkew {
		return refuseNonce("the nonce was made at %s, which is %s the key service's clock: it is good for %s",
			issued(nonce).UTC().Format(time.RFC3339), text.AheadOf(-age), keyapi.NonceTTL)
	}
	return nil
}

func refuseNonce(format string, args ...any) error {
	return service.Refuse(keyapi.CodeAttestation, format, args...).
		WithHint("ask for a new one and attest again").AsRetryable()
}

// nonceKey begins with the time, so that the oldest come first.
func nonceKey(nonce []byte) string { return hex.EncodeToString(nonce[:nonceHead]) }

// unused refuses a nonce that was used.
func (nonces) unused(g getter, nonce []byte) error {
	switch _, err := g.Get(bucketNonces, nonceKey(nonce)); {
	case err == nil:
		return refuseNonce("the nonce is used up")
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	return nil
}

// use notes that a nonce is used up.
func (n nonces) use(w store.Writer, nonce []byte) error {
	if err := n.unused(w, nonce); err != nil {
		return err
	}
	return w.Put(bucketNonces, nonceKey(nonce), nil)
}

// spend uses a nonce up for a release that is refused with valid evidence, and
// returns the refusal. What is no refusal but a failure leaves the nonce good.
func (n nonces) spend(w store.Writer, nonce []byte, refused error) error {
	if _, ok := errors.AsType[*service.Refusal](refused); !ok {
		return refused
	}
	if err := n.use(w, nonce); err != nil {
		return err
	}
	return &recorded{refused}
}

// oldNonce lets a used nonce go when none of its age is good, whatever little way
// the clock is set back.
func oldNonce(_ store.Reader, now time.Time, key string, _ []byte) ([]record, error) {
	head, err := hex.DecodeString(key)
	if err != nil || len(head) != nonceHead {
		return nil, fmt.Errorf("%.80q is not a nonce", key)
	}
	if now.Before(issued(head).Add(keyapi.NonceTTL + nonceSkew)) {
		return nil, nil
	}
	return []record{{bucket: bucketNonces, key: key}}, nil
}
