// Package keyclient talks to a key service (package keyapi has its calls).
//
// Owners and submitters sign each request with their SSH key. Nodes need no
// key: Release makes fresh ones, has them attested, and returns the volumes'
// keys and the service's statement about the node's signing key. It also works
// through a verifier that relays /v1/service, /v1/nonces and /v1/release: the
// relay can neither read the keys nor pass for the service, provided that
// Options.ServiceID is set.
package keyclient
