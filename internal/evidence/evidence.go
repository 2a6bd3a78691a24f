// Package evidence is the seam between a job and the ways in which its nodes
// prove who they are. A type of evidence is one package below this one and one
// line in package builtin's table; the key service's end of it is an attestor
// (package keyserver/attest).
//
//	submitter  Plan         what the manifest says (manifest.Attest), and for which cluster
//	           Credentials  secrets that reach the job's nodes, if any
//	node       Maker        evidence for a claim, and another way to the key service
//	doctor     Check        whether a node can make the evidence
//	           Services     whom nodes have to reach for it
//
// A tier is a demand and a finding. It never says by which type a job attests.
package evidence

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Type is one type of evidence, as the submitter, the node and doctor see it.
// Plan and Maker are required.
type Type struct {
	Plan        func(Submission) (Plan, error)
	Credentials *Credentials // nil: there are none
	Maker       func(parameters json.RawMessage, n Node) (Maker, error)
	Check       *Check    // nil: there is nothing to try
	Services    *Services // nil: nobody but the key service
}

// Submission is what is known of a job before its manifest is signed.
type Submission struct {
	Service keyapi.Service // as the key service describes itself
	Cluster string         // as the user's configuration names it; may be empty
	Tier    manifest.Tier  // least that the job demands
}

// Plan is what the submitter decides.
type Plan struct {
	Parameters any    // for the nodes; rendered as a JSON object
	Cluster    string // whose nodes alone may present the manifest; empty: any
}

// Credentials are secrets that the submitter obtains and that reach the job's
// nodes: they stand in the script that sbatch gets on its standard input, and srun
// hands them to the supervisors on theirs. They never lie in a file on the site's
// storage, unless the script is left there to be submitted by hand.
type Credentials struct {
	What string // in the plural, such as "one-time tokens"; there is one for each node
	// Obtain returns one for each node, each a line of printable text of at most
	// 4096 bytes, once the manifest is registered.
	Obtain func(ctx context.Context, k Keys, manifest manifest.Digest, nodes int) ([]string, error)
}

// Keys makes tokens at the key service.
type Keys interface {
	NewToken(ctx context.Context, manifest manifest.Digest, node string) (keyapi.Token, error)
}

// Node is what a maker finds on a node.
type Node struct {
	Cluster    string // as the manifest names it; may be empty
	Credential string // the node's own, as Obtain returned it; empty if its type has none
}

// Maker makes evidence on one node.
type Maker struct {
	// Attest makes evidence for a claim. Its errors are final, but for
	// *UnavailableError.
	Attest keyclient.AttestFunc
	// Relay is another way to the key service, for nodes that cannot reach it
	// themselves; its zero value is none.
	Relay Endpoint
}

// Endpoint is a service that nodes reach.
type Endpoint struct {
	Name string // for people, such as "verifier of cluster box"
	URL  string // https
	CA   string // PEM; alone vouches for its certificate
	Tier manifest.Tier
}

// Check tries something on a node.
type Check struct {
	What string // such as "MUNGE"
	// Run returns what was found. The hint of its error says what it means.
	Run func(context.Context) (detail string, err error)
}

// Services are those that nodes need beside the key service.
type Services struct {
	What string // such as "verifier"
	// List returns those that a key service names. It fails, with a hint, if
	// that leaves nodes no way to use the type.
	List func(keyapi.Service) ([]Endpoint, error)
}

// UnavailableError says that evidence cannot be had now, and who can help.
type UnavailableError struct {
	Who string // such as "the administrator of ..."
	Err error
}

// Error returns the text of Err.
func (e *UnavailableError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Types are the types of evidence, by the name that manifests have for them.
type Types map[string]Type

// Lookup returns the type of a name.
func (t Types) Lookup(name string) (Type, error) {
	typ, ok := t[name]
	if !ok {
		known := slices.Sorted(maps.Keys(t))
		return Type{}, fmt.Errorf("evidence of type %.40q is not known here (known are %q)", name, known)
	}
	return typ, nil
}

// Maker returns what makes the evidence that a manifest names.
func (t Types) Maker(a manifest.Attest, n Node) (Maker, error) {
	typ, err := t.Lookup(a.Type)
	if err != nil {
		return Maker{}, err
	}
	m, err := typ.Maker(a.Parameters, n)
	if err != nil {
		return Maker{}, fmt.Errorf("evidence of type %s: %w", a.Type, err)
	}
	return m, nil
}

// Plan returns what a manifest says of evidence of the type called name, and for
// which cluster the job is, "" for any.
func (t Types) Plan(name string, s Submission) (a manifest.Attest, cluster string, err error) {
	typ, err := t.Lookup(name)
	if err != nil {
		return a, "", err
	}
	p, err := typ.Plan(s)
	if err != nil {
		return a, "", err
	}
	a.Type = name
	a.Parameters, err = json.Marshal(p.Parameters)
	return a, p.Cluster, err
}
