package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/volume"
)

// inspection is what inspect --json prints. The fields below Digest need an identity.
type inspection struct {
	File    string        `json:"file"`
	ID      volume.ID     `json:"volume_id"`
	Digest  volume.Digest `json:"volume_digest"`
	Size    int64         `json:"size"`
	Entries *int          `json:"entries,omitempty"`
	Plain   *int64        `json:"plain_bytes,omitempty"`
	Tree    []treeEntry   `json:"tree,omitempty"`
}

type treeEntry struct {
	Path   string    `json:"path"`
	Type   string    `json:"type"`
	Mode   string    `json:"mode"`
	Size   int64     `json:"size"`
	Mtime  time.Time `json:"mtime"`
	Target string    `json:"target,omitempty"`
}

func runInspect(_ context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch inspect", "Show what a sealed volume is; with an identity, what it holds.", "FILE", `
sealbatch inspect genomes.sealed -i ~/.ssh/id_ed25519 --json`)
	var id string
	var asJSON bool
	f.String(&id, "age identity or SSH private key that opens the volume", []string{"i", "identity"})
	f.Bool(&asJSON, "print JSON", []string{"json"})
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	path, err := oneArg(f, "FILE")
	if err != nil {
		return err
	}
	in, err := inspect(a, path, id)
	if err != nil {
		return fmt.Errorf("inspect %s: %w", path, err)
	}
	if asJSON {
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		return e.Encode(in)
	}
	printInspection(a, in)
	return nil
}

func inspect(a *app, path, id string) (inspection, error) {
	f, err := os.Open(path)
	if err != nil {
		return inspection{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return inspection{}, err
	}
	in := inspection{File: path, Size: st.Size()}
	if !st.IsDir() {
		if in.ID, in.Digest, err = volume.ReadDigest(f, st.Size()); err != nil || id == "" {
			return in, err
		}
	}
	r, err := openWith(a, path, id)
	if err != nil {
		return in, err
	}
	defer r.Close()
	in.ID, in.Digest, in.Size = r.ID(), r.Digest(), r.Size()
	n, plain := r.Entries(), int64(0)
	in.Tree = walkTree(r, 0, "", &plain, map[uint32]bool{})
	in.Entries, in.Plain = &n, &plain
	return in, nil
}

// walkTree lists what lies below a directory, in order; plain sums the sizes
// of files, hard-linked ones once.
func walkTree(r *volume.Reader, dir uint32, prefix string, plain *int64, seen map[uint32]bool) []treeEntry {
	var out []treeEntry
	for _, d := range r.Dirents(dir) {
		at := r.Attr(d.Node)
		out = append(out, treeEntry{Path: prefix + d.Name, Type: at.Type.String(), Mode: fmt.Sprintf("%04o", at.Mode),
			Size: at.Size, Mtime: at.Mtime.UTC(), Target: r.Readlink(d.Node)})
		if at.Type == volume.File && !seen[d.Node] {
			seen[d.Node] = true
			*plain += at.Size
		}
		if at.Type == volume.Dir {
			out = append(out, walkTree(r, d.Node, prefix+d.Name+"/", plain, seen)...)
		}
	}
	return out
}

func printInspection(a *app, in inspection) {
	fmt.Fprintf(a.stdout, "volume   %s\ndigest   %s\nsize     %d (%s)\n", in.ID, in.Digest, in.Size, text.Size(in.Size))
	if in.Entries == nil {
		return
	}
	fmt.Fprintf(a.stdout, "entries  %d\nholds    %d (%s)\n\n", *in.Entries, *in.Plain, text.Size(*in.Plain))
	for _, e := range in.Tree {
		name := text.Printable(e.Path)
		if e.Target != "" {
			name += " -> " + text.Printable(e.Target)
		}
		fmt.Fprintf(a.stdout, "%-13s %s %12d %s %s\n", e.Type, e.Mode, e.Size, e.Mtime.Format("2006-01-02 15:04"), name)
	}
}
