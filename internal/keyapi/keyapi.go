// Package keyapi is the vocabulary of the key service's HTTP API: paths, wire
// types and the bytes that request signatures and release sealing cover. It
// does no I/O but WriteJSON.
//
//	GET  /v1/service                    who the service is, its statement key, its clusters
//	PUT  /v1/secrets/{volume}     s     deposit a key with its policy
//	GET  /v1/secrets?after=&limit= s    a page of one's own secrets, without keys and policies
//	GET  /v1/secrets/{volume}     s     one secret, without its key
//	GET  /v1/secrets/{volume}/log?after=&limit= s    a page of what became of it
//	GET  /v1/secrets/{volume}/jobs s    the registered jobs that may still ask for it
//	PUT  /v1/secrets/{volume}/policy?if=DIGEST s  replace the policy, if it still is that one
//	POST /v1/secrets/{volume}/revoke s  never release it again, destroy its key
//	DELETE /v1/secrets/{volume}   s     the same, and forget the volume
//	POST /v1/manifests            s     register a signed job manifest
//	GET  /v1/manifests?job=&cluster= s    one's own that the job of that number is bound to
//	GET  /v1/manifests/{digest}   s     one of one's own
//	POST /v1/tokens               s     a one-time token for a manifest (tier C)
//	POST /v1/nonces                     a nonce for one attestation
//	POST /v1/release                    evidence in, sealed keys and a statement out
//	GET  /v1/account              s     one's own account, with the keys that are enrolled for it
//	GET  /v1/audit/head           s     the signed head of the audit log
//	GET  /healthz, /readyz              whether it runs, and can do its work
//
// Requests marked s carry an SSHSIG in HeaderSignature over SigningInput, made
// in namespace Namespace, and the digest of their body in HeaderDigest, also where
// there is none. Bodies are JSON; unknown fields are refused.
package keyapi

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Request signing.
const (
	// Namespace is the SSHSIG namespace of request signatures.
	Namespace = "sealbatch-request"
	// HeaderSignature holds the raw SSHSIG blob (unarmoured), base64.
	HeaderSignature = "Sealbatch-Signature"
	// HeaderTime is the signing time, Unix seconds; the service accepts MaxSkew.
	HeaderTime = "Sealbatch-Time"
	// HeaderNonce is 32 hex digits, random; one use within the accepted time.
	HeaderNonce = "Sealbatch-Nonce"
	// HeaderDigest holds the SHA-256 of the body (RFC 9530), as ContentDigest writes it:
	// who signed a request can be seen before its body is read.
	HeaderDigest = "Content-Digest"
	// MaxSkew is how far a request's time may lie from the service's.
	MaxSkew = 2 * time.Minute
)

// Bounds, in bytes and numbers, that both sides keep.
const (
	MaxBody   = 4 << 20 // a manifest and its private part, in base64
	NonceSize = 32
	NonceTTL  = 60 * time.Second
	TokenTTL  = 7 * 24 * time.Hour
	// MaxManifestLife bounds how long after its registration a manifest can be presented.
	MaxManifestLife = 30 * 24 * time.Hour
	// RepeatTTL is how long a release whose answer was lost may be repeated,
	// byte for byte. It is counted once.
	RepeatTTL    = 10 * time.Minute
	SecretKeyLen = 32
	// MaxPage bounds the entries of one page of a list: some 2 KiB each at most.
	MaxPage = 500
)

// SigningInput returns the message that a request signature covers: every
// field on a line of its own, the path with its query as sent.
func SigningInput(service, method, path string, body manifest.Digest, unix int64, nonce string) []byte {
	return []byte(strings.Join([]string{
		"sealbatch-request v1", service, method, path,
		body.Hex(), strconv.FormatInt(unix, 10), nonce, "",
	}, "\n"))
}

// Health answers GET /healthz and GET /readyz, of the key service and the verifier.
type Health struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"` // why not, each as in "accounts: ..."
}

// Service answers GET /v1/service.
type Service struct {
	ID           string    `json:"id"`
	Time         time.Time `json:"time"`
	StatementKey string    `json:"statement_key"` // Ed25519, base64url
	Clusters     []Cluster `json:"clusters"`
	// Attestors are the types of evidence that are accepted.
	Attestors []Attestor `json:"attestors"`
}

// Attestor tells a submitter of a type of evidence.
type Attestor struct {
	Type string `json:"type"`
	// About is what the type's submitting end has to know: a JSON object that
	// nobody else reads; absent where there is nothing.
	About json.RawMessage `json:"about,omitempty"`
}

// About returns what the service tells submitters of a type of evidence, and
// whether it accepts that type.
func (s Service) About(typ string) (json.RawMessage, bool) {
	for _, a := range s.Attestors {
		if a.Type == typ {
			return a.About, true
		}
	}
	return nil, false
}

// Cluster tells a submitter how nodes of a cluster reach their verifier.
type Cluster struct {
	Name        string        `json:"name"`
	VerifierURL string        `json:"verifier_url"`
	VerifierCA  string        `json:"verifier_ca"` // PEM
	MungeUser   string        `json:"munge_user"`
	Tier        manifest.Tier `json:"tier"` // what this verifier's word is worth
}

// Secret is the body of PUT /v1/secrets/{volume}.
type Secret struct {
	Name   string          `json:"name"` // the info file's: what jobs mount it as
	File   string          `json:"file"` // name of the sealed file: versions have the same
	Kind   manifest.Kind   `json:"kind"`
	Digest manifest.Digest `json:"digest"` // volume digest
	Size   int64           `json:"size"`
	Key    []byte          `json:"key"` // 32 bytes, base64 in JSON
	Policy manifest.Policy `json:"policy"`
	// Image is the digest of the container image in it (manifest.Image), by the owner's word.
	Image manifest.Digest `json:"image,omitzero"`
}

// SecretInfo is what the owner sees of a secret.
type SecretInfo struct {
	VolumeID     string          `json:"volume_id"`
	Name         string          `json:"name"` // as deposited
	File         string          `json:"file"` // likewise
	Kind         manifest.Kind   `json:"kind"`
	Digest       manifest.Digest `json:"digest"`
	Size         int64           `json:"size"`
	Owner        string          `json:"owner"` // account id
	Path         string          `json:"path"`  // the info file's secret_path
	Created      time.Time       `json:"created"`
	Policy       manifest.Policy `json:"policy"`
	PolicyDigest manifest.Digest `json:"policy_digest"` // of the policy as the service keeps it
	PolicyKey    string          `json:"policy_key"`    // fingerprint of the owner's SSH key that set it
	Released     int             `json:"released"`
	Revoked      bool            `json:"revoked"`
	SupersededBy string          `json:"superseded_by,omitempty"` // volume id
	Image        manifest.Digest `json:"image,omitzero"`
	// PolicyVoid says that the policy counts no more: the key that set it is not
	// enrolled, or the administrator withdrew it. Setting it again mends that.
	PolicyVoid bool `json:"policy_void,omitempty"`
}

// Called returns how people are told of a volume: by its name, with its sealed file where that is called otherwise.
func Called(name, file string) string {
	if name == file {
		return name
	}
	return name + " in " + file
}

// Entry returns what a list says of s.
func (s SecretInfo) Entry() SecretEntry {
	return SecretEntry{
		VolumeID: s.VolumeID, Name: s.Name, File: s.File, Kind: s.Kind, Size: s.Size, Created: s.Created, Expires: s.Policy.Expires,
		PinVersion: s.Policy.PinVersion, Released: s.Released, Revoked: s.Revoked, SupersededBy: s.SupersededBy, PolicyVoid: s.PolicyVoid,
		PolicyKey: s.PolicyKey,
	}
}

// Manifest is the body of POST /v1/manifests.
type Manifest struct {
	Manifest  []byte `json:"manifest"`  // the exact signed bytes
	Private   []byte `json:"private"`   // the private part that the manifest pins
	Signature string `json:"signature"` // armoured SSHSIG, namespace sealbatch-manifest
	// Uses is how many Slurm jobs may present it; the first use binds. Only
	// 1 is accepted today.
	Uses int `json:"uses"`
	// Expect asks for a refusal at once if the job would get no key as things are.
	Expect *Expect `json:"expect,omitempty"`
}

// Expect is what a submitter knows of the evidence that its job's nodes will give, beside
// what the manifest says. It is kept nowhere and nothing rests on it. What is not known is empty.
type Expect struct {
	Account   string   `json:"account,omitempty"` // Slurm's
	Partition string   `json:"partition,omitempty"`
	Nodes     []string `json:"nodes,omitempty"` // on which the job will run, no others; MaxExpectedNodes at most
}

// MaxExpectedNodes bounds the nodes of an Expect. Of a job on more, a client names some.
const MaxExpectedNodes = 1 << 12

// ManifestInfo answers POST /v1/manifests.
type ManifestInfo struct {
	Digest  manifest.Digest `json:"digest"`
	Expires time.Time       `json:"expires"`
}

// MaxJobManifests bounds the entries of a ManifestList.
const MaxJobManifests = 100

// ManifestList answers GET /v1/manifests?job=NUMBER[&cluster=NAME] with the caller's own manifests that a job of
// that number is bound to: it was given keys. Numbers repeat between clusters, and over the years.
type ManifestList struct {
	Manifests []ManifestEntry `json:"manifests"`
	More      bool            `json:"more,omitempty"` // there are more than MaxJobManifests
}

// ManifestEntry is what an account sees of a manifest that it registered, until a month after that expired.
type ManifestEntry struct {
	Digest     manifest.Digest `json:"digest"`
	Run        string          `json:"run"`
	JobDir     string          `json:"job_dir"`           // on the site
	Job        *manifest.Job   `json:"job,omitempty"`     // the first that was given keys, and so the only one
	Nodes      int             `json:"nodes"`             // that the manifest asks for
	Restart    uint32          `json:"restart,omitempty"` // the newest start that was given keys
	Served     int             `json:"served"`            // how many nodes of that start were
	Starts     int             `json:"starts"`            // how many starts were
	Registered time.Time       `json:"registered"`
	Expires    time.Time       `json:"expires"` // after which it gets no key
}

// TokenRequest is the body of POST /v1/tokens: claims that the submitter
// vouches for, at tier C.
type TokenRequest struct {
	Manifest manifest.Digest `json:"manifest"`
	Node     string          `json:"node"` // the token is good on this node only; "" any
}

// Token answers POST /v1/tokens.
type Token struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// Nonce answers POST /v1/nonces.
type Nonce struct {
	Nonce   []byte    `json:"nonce"`
	Expires time.Time `json:"expires"`
}

// Claim is what a node says of itself. Evidence must prove it.
type Claim struct {
	Manifest manifest.Digest `json:"manifest"`
	Job      manifest.Job    `json:"job"`
	Node     string          `json:"node"`
	Nonce    []byte          `json:"nonce"`
	E        []byte          `json:"e"` // HPKE public key, MLKEM768X25519
	S        []byte          `json:"s"` // Ed25519 public key
}

// Release is the body of POST /v1/release. Proof is an Ed25519 signature by S
// over ClaimDigest, so that nobody claims with somebody else's key. The same
// bytes again get the same keys, sealed to the same E, within RepeatTTL.
type Release struct {
	Claim    Claim    `json:"claim"`
	Evidence Evidence `json:"evidence"`
	Proof    []byte   `json:"proof"`
}

// Released answers POST /v1/release.
type Released struct {
	// Sealed is an HPKE message (suite: MLKEM768X25519, HKDF-SHA256,
	// AES-256-GCM; info ReleaseInfo of the claim) holding a Bundle as JSON,
	// the encapsulated key first.
	Sealed    []byte `json:"sealed"`
	Statement string `json:"statement"` // JWS, manifest.Statement
	AuditHead string `json:"audit_head"`
}

// Bundle is what Sealed holds.
type Bundle struct {
	Keys    []BundleKey `json:"keys"`
	Private []byte      `json:"private"` // the private part that the manifest pins
}

// BundleKey is one released key, with the digest that the volume must have.
type BundleKey struct {
	VolumeID string          `json:"volume_id"`
	Digest   manifest.Digest `json:"digest"`
	Key      []byte          `json:"key"`
}

// VouchRequest is the body of POST /v1/vouch at a verifier.
type VouchRequest struct {
	Service    string `json:"service"` // key service id
	Claim      Claim  `json:"claim"`
	Credential string `json:"credential"` // MUNGE, its payload ClaimDigest(Service, Claim)
}

// VouchResponse answers POST /v1/vouch.
type VouchResponse struct {
	Voucher string `json:"voucher"` // JWS, payload Voucher
}

// Voucher is a verifier's signed word about a claim.
type Voucher struct {
	Service   string       `json:"service"`
	Claim     []byte       `json:"claim"` // ClaimDigest
	UID       int64        `json:"uid"`
	User      string       `json:"user"`
	Groups    []string     `json:"groups"`
	Node      string       `json:"node"`
	Job       manifest.Job `json:"job"`
	Account   string       `json:"account"`
	Partition string       `json:"partition"`
	Issued    time.Time    `json:"issued"`
}

// AuditHead answers GET /v1/audit/head, and stands in every Released, as a JWS
// of type manifest.TypeAuditHead by the statement key.
type AuditHead struct {
	Service string    `json:"service"`
	Seq     uint64    `json:"seq"`  // number of entries
	Hash    string    `json:"hash"` // of the last entry, hex SHA-256
	Time    time.Time `json:"time"`
}

// SignedHead is the body that carries an AuditHead.
type SignedHead struct {
	Head string `json:"head"` // JWS
}

// Account answers GET /v1/account: who the caller is to the service.
type Account struct {
	Name string       `json:"name"`
	Keys []AccountKey `json:"keys"` // by fingerprint
}

// AccountKey is an SSH key that is enrolled for an account. A key may be enrolled
// several times, for different namespaces and times.
type AccountKey struct {
	Key         string    `json:"key"`                   // as in authorized_keys
	Namespaces  []string  `json:"namespaces,omitempty"`  // of SSHSIG, patterns; absent for all
	ValidAfter  time.Time `json:"valid_after,omitzero"`  // absent: from ever
	ValidBefore time.Time `json:"valid_before,omitzero"` // absent: without end
}

// Deleted answers DELETE /v1/secrets/{volume}.
type Deleted struct {
	VolumeID string `json:"volume_id"`
}

// SecretEntry is what a list says of a secret: what is small, whatever its policy.
type SecretEntry struct {
	VolumeID     string        `json:"volume_id"`
	Name         string        `json:"name"`
	File         string        `json:"file"`
	Kind         manifest.Kind `json:"kind"`
	Size         int64         `json:"size"`
	Created      time.Time     `json:"created"`
	Expires      time.Time     `json:"expires"`     // its policy's
	PinVersion   bool          `json:"pin_version"` // its policy's
	Released     int           `json:"released"`
	Revoked      bool          `json:"revoked"`
	SupersededBy string        `json:"superseded_by,omitempty"` // volume id
	PolicyVoid   bool          `json:"policy_void,omitempty"`   // as in SecretInfo
	PolicyKey    string        `json:"policy_key"`              // likewise
}

// LogEntry is an entry of a volume's history, for its owner. What it does not have is empty.
type LogEntry struct {
	Time     time.Time     `json:"time"`
	Event    string        `json:"event"`              // one of the Log constants
	Account  string        `json:"account,omitempty"`  // name of who did it, or registered the job
	Key      string        `json:"key,omitempty"`      // fingerprint of the SSH key that signed it
	User     string        `json:"user,omitempty"`     // whom the evidence showed
	Node     string        `json:"node,omitempty"`     // where the job ran
	Job      *manifest.Job `json:"job,omitempty"`      // that was given the key, or refused
	Attestor string        `json:"attestor,omitempty"` // type of the evidence
	Tier     string        `json:"tier,omitempty"`     // that it reached
	Policy   string        `json:"policy,omitempty"`   // digest of the policy that was set, or let the key go
	Changes  []string      `json:"changes,omitempty"`  // what is new in a policy that was set, in words
	Reason   string        `json:"reason,omitempty"`   // of a refusal
	// Times counts refusals of the same submitter and user, a minute apart at least,
	// from Time to Last.
	Times int        `json:"times,omitempty"`
	Last  *time.Time `json:"last,omitempty"`
}

// Events of a volume's history.
const (
	LogDeposited  = "deposited"
	LogPolicy     = "policy"
	LogSuperseded = "superseded"
	LogRevoked    = "revoked"
	LogReleased   = "released"
	LogRefused    = "refused"
)

// SecretLog answers GET /v1/secrets/{volume}/log with a page of a volume's history, by
// kind: the owner's acts, releases, refusals. Query as for SecretList.
type SecretLog struct {
	Entries []LogEntry `json:"entries"`
	Next    string     `json:"next,omitempty"`
}

// MaxSecretJobs bounds the jobs that a SecretJobs names.
const MaxSecretJobs = 100

// SecretJobs answers GET /v1/secrets/{volume}/jobs, for the volume's owner: the jobs that
// are registered, may still ask for its key, and would get it by its policy as it is, as far as that can be
// known. The service does not know which of them wait in a queue; the first are those that expire first.
type SecretJobs struct {
	Jobs []SecretJob `json:"jobs"`
	More int         `json:"more,omitempty"` // beyond MaxSecretJobs
	// Uncounted says that more are registered than the service looks at for one answer.
	Uncounted bool `json:"uncounted,omitempty"`
}

// SecretJob is a registered job: none of its nodes, or not all of them, have been given keys.
type SecretJob struct {
	Account    string        `json:"account"`           // name of who registered it
	User       string        `json:"user"`              // of the site, by that one's word
	Cluster    string        `json:"cluster,omitempty"` // likewise; "" any
	Nodes      int           `json:"nodes"`
	Job        *manifest.Job `json:"job,omitempty"` // known once one of its nodes has asked
	Registered time.Time     `json:"registered"`
	Expires    time.Time     `json:"expires"`            // after which it gets no key
	Manifest   string        `json:"manifest,omitempty"` // its digest, of the owner's own
}

// SecretList answers GET /v1/secrets with a page of the list, which is in the
// order of volume ids. The query may hold limit, how many entries are wanted
// (MaxPage at most, and by default), and after, the Next of the page before.
type SecretList struct {
	Secrets []SecretEntry `json:"secrets"`        // fewer than limit where policies are long
	Next    string        `json:"next,omitempty"` // where the next page begins; absent on the last
}

// Error is the body of every answer that is not 2xx.
type Error struct {
	Code    string `json:"code"`    // one of the Code constants
	Message string `json:"message"` // for people; holds no secret
	Hint    string `json:"hint,omitempty"`
	// Retryable says that the request only came too late: a claim with a new nonce,
	// or a request that is signed now, may succeed.
	Retryable bool `json:"retryable,omitempty"`
}

// Error codes: what a program may act on. Statuses in brackets.
const (
	CodeBadRequest   = "bad_request"  // 400
	CodeUnauthorised = "unauthorised" // 401: signature, time or nonce of a request
	CodeForbidden    = "forbidden"    // 403: not this account's
	CodeAttestation  = "attestation"  // 403: evidence does not hold
	CodePolicy       = "policy"       // 403: evidence holds, the policy says no
	CodeNotFound     = "not_found"    // 404
	CodeConflict     = "conflict"     // 409: exists, bound or already claimed
	CodeChanged      = "changed"      // 412: it is not any more what the caller has seen
	CodeTooMany      = "too_many"     // 429, with Retry-After
	CodeInternal     = "internal"     // 500
	CodeUnavailable  = "unavailable"  // 503: the audit log cannot be written, say
)
