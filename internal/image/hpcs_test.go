package image

import (
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// withConfig writes a SIF file that says of which image it was made.
func withConfig(t *testing.T, name, text string) string {
	t.Helper()
	part, err := sif.NewDescriptorInput(sif.DataPartition, strings.NewReader(strings.Repeat("file system ", 1000)),
		sif.OptPartitionMetadata(sif.FsSquash, sif.PartPrimSys, "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := sif.NewDescriptorInput(sif.DataGenericJSON, strings.NewReader(text), sif.OptObjectName(name))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.sif")
	f, err := sif.CreateContainerAtPath(path, sif.OptCreateWithDescriptors(config, part))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.UnloadContainer(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPreparedByHPCS(t *testing.T) {
	t.Parallel()
	const own = `"Entrypoint": ["/bin/sh", "-c", "/sd-container/tools/input_logic/run.sh && jp2a $@ > /sd-container/output/stdout"]`
	for text, want := range map[string]bool{
		"{" + own + "}":                true,
		`{"config": {` + own + "}}":    true,
		`{"Entrypoint": ["jp2a"]}`:     false,
		`{"Entrypoint": ["sh", "-c"]}`: false,
		`{"Cmd": ["/bin/sh", "-c", "/sd-container/tools/input_logic/run.sh && x"]}`:                false,
		`{"Entrypoint": ["/bin/sh", "-c", "echo /sd-container/tools/input_logic/run.sh && jp2a"]}`: false,
		"{" + own: false, "[]": false, "": false,
	} {
		if got, err := Inspect(withConfig(t, ociConfig, text)); err != nil || got.HPCS != want {
			t.Errorf("%s: %v, %v", text, got.HPCS, err)
		}
	}
	if got, err := Inspect(withConfig(t, "other.json", "{"+own+"}")); err != nil || got.HPCS {
		t.Errorf("another document: %v, %v", got.HPCS, err)
	}
	if PreparedByHPCS(v1.Config{}) {
		t.Error("no entry point")
	}
}
