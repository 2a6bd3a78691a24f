// Package manifest holds the documents that travel between owner, submitter,
// key service, node and results: the info file of a sealed volume, the job
// manifest, the node's origin statement and receipt, and the key service's
// attestation statement.
//
//	document     written by    signed by                         encoding
//	info file    owner         SSHSIG, namespace sealbatch-info  YAML, HPCS's fields kept
//	manifest     submitter     SSHSIG, sealbatch-manifest        JSON
//	statement    key service   JWS, its statement key            JSON
//	origin       node          JWS, the node's signing key S     JSON
//	receipt      node          JWS, the node's signing key S     JSON
//
// Every document names its format and version in its first field and is parsed
// strictly: unknown fields, trailing bytes, oversized input and values outside
// their domain are refused, so that a parsed value is a valid one. What is
// signed are the exact bytes on disk; nothing is ever re-encoded before a check.
package manifest

import "errors"

// SSHSIG namespaces. A signature made for one purpose is never taken for
// another (OpenSSH PROTOCOL.sshsig, "namespace").
const (
	NamespaceInfo     = "sealbatch-info"
	NamespaceManifest = "sealbatch-manifest"
)

// ErrInvalid is wrapped by every refusal to parse a document.
var ErrInvalid = errors.New("invalid document")

// maxDocument bounds what is parsed, in bytes: the largest manifest carries a
// CA bundle, arguments and a few hundred script digests.
const maxDocument = 1 << 20
