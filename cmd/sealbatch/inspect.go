package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/volume"
)

// inspection is what inspect prints but for the tree, which follows it in JSON, too. The fields below Digest need an
// identity.
type inspection struct {
	File    string        `json:"file"`
	ID      volume.ID     `json:"volume_id"`
	Digest  volume.Digest `json:"volume_digest"`
	Size    int64         `json:"size"`
	Entries *int          `json:"entries,omitempty"`
	Plain   *int64        `json:"plain_bytes,omitempty"`
}

type treeEntry struct {
	Path string `json:"path"`
	// Raw is the path itself where it is no UTF-8, which JSON cannot hold.
	Raw    []byte `json:"path_base64,omitempty"`
	Type   string `json:"type"`
	Mode   string `json:"mode"`
	Size   int64  `json:"size"`
	Mtime  string `json:"mtime"` // RFC 3339, or @SECONDS since 1970 if the year has not four digits
	Target string `json:"target,omitempty"`
	mtime  time.Time
}

func runInspect(_ context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch inspect", "Show what a sealed volume is; with an identity, what it holds.", "FILE", `
sealbatch inspect genomes.sealed -i ~/.ssh/id_ed25519 --json`)
	var how opening
	var asJSON bool
	f.String(&how.identity, "age identity or SSH private key that opens the volume", []string{"i", "identity"})
	maxIndexFlag(f, &how.maxIndex)
	f.Bool(&asJSON, "print JSON", []string{"json"})
	if err := a.parse(f, args); err != nil {
		return err
	}
	path, err := oneArg(f, "FILE")
	if err != nil {
		return err
	}
	in, r, err := inspect(a, path, how)
	if err != nil {
		return fmt.Errorf("inspect %s: %w", path, err)
	}
	if r != nil {
		defer r.Close()
	}
	w := bufio.NewWriterSize(a.stdout, 64<<10)
	if asJSON {
		err = printJSON(w, in, r)
	} else {
		err = printInspection(w, in, r)
	}
	return errors.Join(err, w.Flush())
}

// inspect reads what a volume is; r is nil if there is no identity that opens it.
func inspect(a *app, path string, how opening) (in inspection, r *volume.Reader, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return in, nil, err
	}
	in = inspection{File: path, Size: st.Size()}
	if !st.IsDir() {
		f, err := openSealed(path)
		if err != nil {
			return in, nil, err
		}
		defer f.Close()
		if in.ID, in.Digest, err = volume.ReadDigest(f, st.Size()); err != nil || how.identity == "" {
			return in, nil, err
		}
	}
	if r, err = openWith(a, path, how); err != nil {
		return in, nil, err
	}
	in.ID, in.Digest, in.Size = r.ID(), r.Digest(), r.Size()
	n, plain := r.Entries(), int64(0)
	for node := range r.Len() {
		if at := r.Attr(uint32(node)); at.Type == volume.File {
			plain += at.Size
		}
	}
	in.Entries, in.Plain = &n, &plain
	return in, r, nil
}

// maxPath is PATH_MAX: nothing can be opened by a longer path, and paths in a deep tree have quadratic length.
const maxPath = 4096

// walkTree calls show for what lies below a directory, in order. It returns the number of names that have too
// long a path, and are not shown.
func walkTree(r *volume.Reader, dir uint32, prefix string, show func(treeEntry) error) (hidden int, err error) {
	for _, d := range r.Dirents(dir) {
		path := prefix + d.Name
		if len(path) > maxPath {
			hidden++
			continue
		}
		at := r.Attr(d.Node)
		e := treeEntry{Path: path, Type: at.Type.String(), Mode: fmt.Sprintf("%04o", at.Mode), mtime: at.Mtime,
			Size: at.Size, Mtime: text.Time(at.Mtime, time.RFC3339Nano), Target: r.Readlink(d.Node)}
		if !utf8.ValidString(path) {
			e.Raw = []byte(path)
		}
		err := show(e)
		if err == nil && at.Type == volume.Dir {
			var more int
			more, err = walkTree(r, d.Node, path+"/", show)
			hidden += more
		}
		if err != nil {
			return hidden, err
		}
	}
	return hidden, nil
}

// printJSON prints an object with the fields of in, and the tree entry by entry, since it can be large.
func printJSON(w io.Writer, in inspection, r *volume.Reader) error {
	head, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	if r == nil || r.Entries() == 0 {
		_, err = fmt.Fprintf(w, "%s\n", head)
		return err
	}
	before := strings.TrimSuffix(string(head), "\n}") + ",\n  \"tree\": [\n    "
	hidden, err := walkTree(r, 0, "", func(e treeEntry) error {
		b, err := json.MarshalIndent(e, "    ", "  ")
		if err == nil {
			_, err = fmt.Fprintf(w, "%s%s", before, b)
		}
		before = ",\n    "
		return err
	})
	end := "\n  ]\n}\n"
	if hidden > 0 {
		end = fmt.Sprintf("\n  ],\n  \"not_shown\": %d\n}\n", hidden)
	}
	if err == nil {
		_, err = io.WriteString(w, end)
	}
	return err
}

func printInspection(w io.Writer, in inspection, r *volume.Reader) error {
	_, err := fmt.Fprintf(w, "volume   %s\ndigest   %s\nsize     %d (%s)\n", in.ID, in.Digest, in.Size, text.Size(in.Size))
	if r == nil || err != nil {
		return err
	}
	fmt.Fprintf(w, "entries  %d\nholds    %d (%s)\n\n", *in.Entries, *in.Plain, text.Size(*in.Plain))
	hidden, err := walkTree(r, 0, "", func(e treeEntry) error {
		fmt.Fprintf(w, "%-13s %s %12d %s %s", e.Type, e.Mode, e.Size, text.Time(e.mtime, "2006-01-02 15:04"), text.Printable(e.Path))
		if e.Target != "" {
			fmt.Fprintf(w, " -> %s", text.Printable(e.Target))
		}
		_, err := fmt.Fprintln(w)
		return err
	})
	if err == nil && hidden > 0 {
		_, err = fmt.Fprintf(w, "not shown: %d names whose path is longer than %d bytes, and what lies in them\n", hidden, maxPath)
	}
	return err
}
