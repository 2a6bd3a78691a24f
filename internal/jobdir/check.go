package jobdir

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Expected is what a submitter remembers of a job, for its results to be held
// against.
type Expected struct {
	Run          string
	Manifest     manifest.Digest // of the signed bytes
	JobID        string          // Slurm's; empty where it is not known
	Service      string          // the key service's identity
	StatementKey string          // with which the key service signs statements
	Tier         manifest.Tier   // that was asked for
}

// Files are those of a node's directory that say where its results come from; absent
// ones are empty. They are a few kilobytes each.
type Files struct {
	Statement string // JWS of the key service
	Origin    string // JWS of the node
	Receipt   string // JWS of the node; empty when the job was killed
	Keys      []byte // keys.age beside the cipher directory
}

// Vouched says what is known of one node's results.
type Vouched struct {
	Node      string
	Statement manifest.Statement
	Origin    manifest.Origin
	Receipt   *manifest.Receipt // nil when the node left none
}

// ErrNotOurs says that a node's files were not made by the submitted job.
var ErrNotOurs = errors.New("does not come from the submitted job")

// ErrNoKeys says that the wrapped key of a node's outputs is away.
var ErrNoKeys = errors.New(KeysName +
	" is missing: the outputs' key was wrapped into it, and without it nobody can open them")

// Check holds a node's files against what is expected of the job: the
// statement must be the pinned key service's, for this manifest and job; the
// origin and the receipt must be signed by the key that the statement
// certifies. node is the name of the directory.
func Check(want Expected, node string, f Files) (Vouched, error) {
	v := Vouched{Node: node}
	pub, err := manifest.DecodeKey(want.StatementKey)
	if err != nil {
		return v, fmt.Errorf("recorded key of the key service: %w", err)
	}
	if err := manifest.VerifyJWS(manifest.TypeStatement, pub, f.Statement, &v.Statement); err != nil {
		return v, fmt.Errorf("attestation statement: %w", err)
	}
	st := v.Statement
	switch {
	case st.Service != want.Service || st.Manifest != want.Manifest:
		return v, fmt.Errorf("attestation statement: %w: it is for another manifest or service", ErrNotOurs)
	case want.JobID != "" && fmt.Sprint(st.Job.ID) != want.JobID:
		return v, fmt.Errorf("attestation statement: %w: it is for job %d", ErrNotOurs, st.Job.ID)
	case st.Node != node && !restartOf(node, st):
		return v, fmt.Errorf("attestation statement: %w: it is for node %.64q", ErrNotOurs, st.Node)
	case st.Tier < want.Tier:
		return v, fmt.Errorf("attestation statement: %w: tier %s is below the %s that was asked for",
			ErrNotOurs, st.Tier, want.Tier)
	}
	if err := checkSigned(want, f, &v); err != nil {
		return Vouched{Node: node}, err
	}
	return v, nil
}

// restartOf accepts a restarted job's directory: NODE.rN.
func restartOf(dir string, st manifest.Statement) bool {
	return st.Job.Restart > 0 && dir == NodeName(st.Node, st.Job.Restart)
}

// checkSigned checks what the node signed with S.
func checkSigned(want Expected, f Files, v *Vouched) error {
	s, err := manifest.DecodeKey(v.Statement.S)
	if err != nil {
		return fmt.Errorf("attestation statement: %w", err)
	}
	r, err := checkReceipt(want, s, f.Receipt, v.Statement)
	if err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	v.Receipt = r
	if r != nil && f.Origin == "" && r.Output.VolumeID == "" {
		return nil // it ended before there was an output volume
	}
	if err := manifest.VerifyJWS(manifest.TypeOrigin, s, f.Origin, &v.Origin); err != nil {
		return fmt.Errorf("origin statement: %w", err)
	}
	o := v.Origin
	if o.Run != want.Run || o.Manifest != want.Manifest || o.Job != v.Statement.Job || o.Node != v.Statement.Node {
		return fmt.Errorf("origin statement: %w", ErrNotOurs)
	}
	return checkKeys(o, r, f)
}

// checkKeys checks the wrapped keys with which results are opened that are not a
// sealed volume.
func checkKeys(o manifest.Origin, r *manifest.Receipt, f Files) error {
	needed := r == nil || (!r.Output.Sealed && r.Output.VolumeID != "")
	if needed && len(f.Keys) == 0 {
		return ErrNoKeys
	}
	if needed && manifest.DigestOf(f.Keys) != o.Keys {
		return fmt.Errorf("wrapped keys of the outputs: %w: they are not those that the node signed", ErrNotOurs)
	}
	return nil
}

// checkReceipt returns nil for an empty receipt.
func checkReceipt(want Expected, s ed25519.PublicKey, jws string, st manifest.Statement) (*manifest.Receipt, error) {
	if jws == "" {
		return nil, nil
	}
	var r manifest.Receipt
	if err := manifest.VerifyJWS(manifest.TypeReceipt, s, jws, &r); err != nil {
		return nil, err
	}
	if r.Run != want.Run || r.Manifest != want.Manifest || r.Job != st.Job || r.Node != st.Node {
		return nil, ErrNotOurs
	}
	return &r, nil
}

// ReadFiles collects a node's files through read, which reads a named one of
// them whole; those that do not exist (fs.ErrNotExist) are left empty.
func ReadFiles(read func(name string) ([]byte, error)) (Files, error) {
	var out [4][]byte
	for i, name := range []string{StatementName, OriginName, ReceiptName, KeysName} {
		b, err := read(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Files{}, err
		}
		out[i] = b
	}
	text := func(b []byte) string { return string(bytes.TrimSpace(b)) }
	return Files{Statement: text(out[0]), Origin: text(out[1]), Receipt: text(out[2]), Keys: out[3]}, nil
}
