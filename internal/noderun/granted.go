package noderun

import (
	"context"
	"errors"
	"io"

	"github.com/sealbatch/sealbatch/internal/evidence/builtin"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// granted is a job whose keys have been released, with a directory of its own on
// the shared storage.
type granted struct {
	*admitted
	released keyclient.Released
	tier     manifest.Tier // of the evidence
	args     []string      // the application's
	flags    manifest.Flags
	dir      nodeDir
}

// attest has the keys released by src, by default the manifest's key service, with
// a credential from input. What it returns is to be closed, error or not.
func (a *admitted) attest(src KeySource, input io.ReadCloser) (*granted, error) {
	g := &granted{admitted: a}
	return g, a.step("attestation", ExitAttestation, func(ctx context.Context) error {
		if src == nil {
			keys, err := a.keysByEvidence(ctx, builtin.Types, input)
			if err != nil {
				return err
			}
			keys.log, src = a.log, keys
		}
		return g.obtain(ctx, src)
	})
}

// obtain gets the keys and the statement, and makes the node's directory.
func (g *granted) obtain(ctx context.Context, src KeySource) (err error) {
	req := KeyRequest{
		Manifest: g.manifest, Digest: g.digest, Job: g.alloc.job, Node: g.alloc.node,
	}
	if g.released, err = fetchKeys(ctx, src, req, fetchTime(g.alloc, g.manifest.SealSeconds), g.log); err != nil {
		return err
	}
	st, err := checkStatement(g.released, req)
	if err != nil {
		return err
	}
	g.tier = st.Tier
	if err := g.takePrivate(g.released.Private); err != nil {
		return failed(ExitIntegrity, err)
	}
	if g.dir, err = makeNodeDir(g.jobDir, g.alloc.dirName(), g.released.StatementJWS); err != nil {
		return failed(ExitManifest, err)
	}
	g.noteDir()
	return nil
}

// takePrivate takes the arguments and flags from the private part, which must
// be the one that the manifest pins.
func (g *granted) takePrivate(b []byte) error {
	if manifest.DigestOf(b) != g.manifest.Private {
		return errors.New("the private part is not the one that the manifest pins")
	}
	p, err := manifest.ParsePrivate(b)
	if err != nil {
		return err
	}
	g.args = p.Args
	g.flags, err = manifest.ParseFlags(p.Flags)
	return err
}

// close overwrites the keys, and closes the node's directory.
func (g *granted) close() {
	g.released.Wipe()
	closeRoot(g.dir.Root)
}
