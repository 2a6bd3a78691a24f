package sifbuild

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sylabs/sif/v2/pkg/sif"
)

// TestHead: what stands before a partition is as long for any size of it, the same each time, and with a partition
// behind it a SIF file.
func TestHead(t *testing.T) {
	t.Parallel()
	o := objects{deffile: []byte("bootstrap: docker\n"), inspect: []byte(`{"a":1}`), config: bytes.Repeat([]byte("x"), 5000),
		arch: "arm64", created: time.Unix(1700000000, 0)}
	empty, err := o.head(0)
	if err != nil {
		t.Fatal(err)
	}
	partition := bytes.Repeat([]byte("p"), 3*4096)
	head, err := o.head(int64(len(partition)))
	if err != nil || len(head) != len(empty) || len(head)%4096 != 0 {
		t.Fatalf("%d and %d bytes, %v", len(empty), len(head), err)
	}
	if again, err := o.head(int64(len(partition))); err != nil || !bytes.Equal(head, again) {
		t.Errorf("another time it is different: %v", err)
	}
	f, err := sif.LoadContainer(sif.NewBuffer(append(head, partition...)))
	if err != nil {
		t.Fatal(err)
	}
	if !f.CreatedAt().Equal(o.created) || f.PrimaryArch() != "arm64" || f.LaunchScript() != launchScript {
		t.Errorf("created %v, for %s, begins with %q", f.CreatedAt(), f.PrimaryArch(), f.LaunchScript())
	}
	for i, want := range []struct {
		kind    sif.DataType
		name    string
		content []byte
	}{
		{sif.DataDeffile, "", o.deffile}, {sif.DataGenericJSON, "inspect-metadata.json", o.inspect},
		{sif.DataGenericJSON, "oci-config.json", o.config}, {sif.DataPartition, "", partition},
	} {
		d, err := f.GetDescriptor(sif.WithID(uint32(i + 1)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := d.GetData()
		if err != nil || d.DataType() != want.kind || d.Name() != want.name || !bytes.Equal(b, want.content) || d.GroupID() != 1 {
			t.Errorf("object %d: %v %q, %d bytes, group %d, %v", i+1, d.DataType(), d.Name(), len(b), d.GroupID(), err)
		}
	}
}

// TestHeadRefuses: an architecture that SIF has no number for, and a configuration without end.
func TestHeadRefuses(t *testing.T) {
	t.Parallel()
	if _, err := (objects{arch: "pdp11"}).head(1); err == nil || !strings.Contains(err.Error(), "pdp11") {
		t.Errorf("an unknown architecture: %v", err)
	}
	var f beginning
	if _, err := f.Seek(maxHead, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("a head has no end")
	}
}
