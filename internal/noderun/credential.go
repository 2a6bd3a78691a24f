package noderun

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
)

// maxCredentials bounds what a job's nodes get on standard input, in bytes: a token
// of 43 digits and a line's end for each of 65,536 nodes, and more.
const maxCredentials = 8 << 20

// keysByEvidence returns the manifest's key service, to be asked by the evidence
// that the manifest names. It closes input, from which it takes the node's
// credential if there are any of that type.
func (j *job) keysByEvidence(ctx context.Context, types evidence.Types, input io.ReadCloser) (keys serviceKeys, err error) {
	if input == nil {
		input = io.NopCloser(bytes.NewReader(nil))
	}
	defer input.Close()
	typ, err := types.Lookup(j.manifest.Attest.Type)
	if err == nil && typ.Credentials != nil {
		keys.credential, err = readCredential(ctx, input, j.alloc.nodeID)
		err = fault.WithHint(err, "submit the script that sealbatch job-prep gives to sbatch, or that --no-submit leaves")
	}
	keys.types = types
	return keys, err
}

// readCredential reads input to its end, or until ctx is done, and returns the line
// of a node, which counts from 0. All nodes of a job get the same input.
func readCredential(ctx context.Context, input io.ReadCloser, node int) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = input.Close() })
	defer stop()
	b, err := fsx.ReadAll(input, maxCredentials)
	defer clear(b)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("read the node's credential: %w", err)
	}
	lines := bytes.Split(b, []byte("\n"))
	if node >= len(lines) || len(lines[node]) == 0 {
		return "", fmt.Errorf("%w: the job came without a credential for node number %d", ErrAttestation, node)
	}
	return string(lines[node]), nil
}
