// Package results brings a job's results home: it fetches what each node left,
// holds it against what was remembered at submission, and opens it, one
// directory a node.
package results

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"sort"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/manifest"
	"github.com/sealbatch/sealbatch/submission"
	"github.com/sealbatch/sealbatch/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// Deps are the parties that take part.
type Deps struct {
	FS         transfer.FS
	Identities []age.Identity // one of them opens the results
	Log        *slog.Logger
	Progress   func(label string, total int64) *ui.Progress
}

// Node is what came of one node.
type Node struct {
	Name string
	Dir  string // local directory with the opened results; "" if there are none
	// Receipt is the node's account; nil when the job was killed before it
	// could write one.
	Receipt *manifest.Receipt
	Tier    manifest.Tier
	// Sealed says that the tree is as the job sealed it. Otherwise each
	// block is genuine, but files may be missing, older, or exchanged.
	Sealed bool
	Err    error // why this node's results could not be opened
}

// ErrNothing says that no node has left anything yet.
var ErrNothing = errors.New("the job has left nothing yet")

// maxSmall bounds a node's signed files, in bytes.
const maxSmall = 1 << 20

// Fetch opens the results of a job below dir, one new directory a node. A node
// whose results cannot be opened has Err set and does not keep the others from
// being opened. What exists under a final name is complete; running it again
// opens the nodes that are still missing.
func Fetch(ctx context.Context, d Deps, rec submission.Record, dir string) ([]Node, error) {
	entries, err := d.FS.ReadDir(path.Join(rec.JobDir, "nodes"))
	if err != nil {
		return nil, fmt.Errorf("job directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && filepath.IsLocal(e.Name()) {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return nil, ErrNothing
	}
	sort.Strings(names)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var out []Node
	for _, n := range names {
		node := d.fetchNode(ctx, rec, n, filepath.Join(dir, n))
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		out = append(out, node)
	}
	return out, nil
}

func (d Deps) fetchNode(ctx context.Context, rec submission.Record, name, target string) Node {
	n := Node{Name: name}
	remote := path.Join(rec.JobDir, "nodes", name)
	files, err := submission.ReadFiles(func(f string) ([]byte, error) {
		return transfer.ReadFile(d.FS, path.Join(remote, f), maxSmall)
	})
	if err != nil {
		n.Err = err
		return n
	}
	if files.Statement == "" || (files.Origin == "" && files.Receipt == "") {
		n.Err = ui.Fail(ui.CodeJob, fmt.Errorf("%w on this node: it has not begun to write results, or was killed before it could", ErrNothing), "the job's log says how far it came: "+rec.LogFile)
		return n
	}
	v, err := submission.Check(rec, name, files)
	if err != nil {
		n.Err = ui.Fail(ui.CodeIntegrity, err, "these files were not made by the job that you submitted: do not use them")
		return n
	}
	n.Receipt, n.Tier = v.Receipt, v.Statement.Tier
	if n.Receipt != nil && n.Receipt.Output.VolumeID == "" {
		return n // it failed before there were outputs
	}
	n.Sealed = n.Receipt != nil && n.Receipt.Output.Sealed
	if n.Sealed {
		n.Err = d.openSealed(ctx, remote, n.Receipt.Output, target)
	} else {
		n.Err = d.recover(ctx, remote, v, files.Keys, target)
	}
	if n.Err == nil {
		n.Dir = target
	}
	return n
}

// openSealed downloads a sealed volume, holds it against the receipt, and
// extracts it.
func (d Deps) openSealed(ctx context.Context, remote string, out manifest.Output, target string) error {
	if !filepath.IsLocal(out.File) {
		return ui.Fail(ui.CodeIntegrity, fmt.Errorf("receipt names the file %.80q", out.File), "")
	}
	tmp, err := os.MkdirTemp(filepath.Dir(target), ".fetch-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if st, err := d.FS.Stat(path.Join(remote, out.File)); err == nil && st.Size() != out.Size {
		return ui.Fail(ui.CodeIntegrity, fmt.Errorf("the sealed results have %d bytes, not the %d that the job signed", st.Size(), out.Size),
			"they were cut or replaced after the job; do not use them")
	}
	sealed := filepath.Join(tmp, "sealed")
	if err := d.download(ctx, path.Join(remote, out.File), sealed, out.Size); err != nil {
		return fmt.Errorf("download %s: %w", out.File, err)
	}
	local, err := os.Open(sealed)
	if err != nil {
		return err
	}
	defer local.Close()
	id, digest, err := volume.ReadDigest(local, out.Size)
	if err != nil {
		return err
	}
	if id.String() != out.VolumeID || manifest.Digest(digest) != out.Digest {
		return ui.Fail(ui.CodeIntegrity, errors.New("the sealed results are not those that the job signed"), "they were replaced after the job; do not use them")
	}
	sum, err := checksum(local, out.Size)
	if err != nil {
		return err
	}
	if sum != out.Checksum {
		return ui.Fail(ui.CodeIntegrity, errors.New("the sealed results were altered after the job sealed them"), "fetch them again; if that does not help, the copy on scratch is damaged")
	}
	key, err := volume.UnwrapKey(local, out.Size, d.Identities...)
	if err != nil {
		return err
	}
	defer key.Wipe()
	r, err := volume.Open(local, out.Size, key)
	if err != nil {
		return err
	}
	return r.Extract(ctx, target, volume.ExtractOptions{})
}

func (d Deps) download(ctx context.Context, remote, local string, size int64) error {
	p := d.progress("fetching "+path.Base(path.Dir(remote)), size)
	_, err := transfer.Download(ctx, d.FS, remote, local, size, p.Set)
	if err != nil {
		p.Abandon()
		return err
	}
	p.Finish()
	return nil
}

// checksum is a sealed file's checksum: over the SHA-256s of its segments.
func checksum(r io.ReaderAt, size int64) (manifest.Digest, error) {
	var segments []volume.Digest
	for off := int64(0); off < size; off += volume.SegmentSize {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(r, off, min(volume.SegmentSize, size-off))); err != nil {
			return manifest.Digest{}, err
		}
		segments = append(segments, volume.Digest(h.Sum(nil)))
	}
	return manifest.Digest(volume.ChecksumOf(segments)), nil
}

func (d Deps) progress(label string, total int64) *ui.Progress {
	if d.Progress == nil {
		return nil
	}
	return d.Progress(label, total)
}
