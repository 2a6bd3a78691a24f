package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/volume"
)

// deepTree is a Source: a link, and directories of one name in one another.
type deepTree struct {
	levels int
	name   string
}

func (d deepTree) Walk(_ context.Context, emit func(volume.Entry) (uint32, error)) error {
	at, err := emit(volume.Entry{Attr: volume.Attr{Type: volume.Dir}})
	if err != nil {
		return err
	}
	if _, err := emit(volume.Entry{Parent: at, Name: `a <"b">`, Target: "t", Attr: volume.Attr{Type: volume.Symlink}}); err != nil {
		return err
	}
	for range d.levels {
		if at, err = emit(volume.Entry{Parent: at, Name: d.name, Attr: volume.Attr{Type: volume.Dir}}); err != nil {
			return err
		}
	}
	return nil
}

// TestInspectPrints: what inspect prints entry by entry is one JSON document; directories so deep that their paths could not be
// used end the list, and not the program.
func TestInspectPrints(t *testing.T) {
	t.Parallel()
	const levels, name = 40, 200
	var out bytes.Buffer
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	made, err := volume.Seal(t.Context(), &out, deepTree{levels, strings.Repeat("d", name)}, volume.SealOptions{
		Recipients: []age.Recipient{identity.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := volume.Open(bytes.NewReader(out.Bytes()), made.Size, made.Key)
	if err != nil {
		t.Fatal(err)
	}
	n, plain := r.Entries(), int64(0)
	in := inspection{File: "f", Entries: &n, Plain: &plain}
	for kind, print := range map[string]func(*bytes.Buffer) error{
		"text": func(b *bytes.Buffer) error { return printInspection(b, in, r) },
		"JSON": func(b *bytes.Buffer) error { return printJSON(b, in, r) },
	} {
		out.Reset()
		if err := print(&out); err != nil || out.Len() > 200<<10 {
			t.Errorf("%s: %d bytes, %v", kind, out.Len(), err)
		}
		if kind != "JSON" {
			continue
		}
		var got struct {
			inspection
			Tree []treeEntry
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if *got.Entries != levels+1 || len(got.Tree) != 1+maxPath/(name+1) || got.Tree[0].Path != `a <"b">` {
			t.Errorf("%d entries, %d of them listed, the first %q", *got.Entries, len(got.Tree), got.Tree[0].Path)
		}
	}
}
