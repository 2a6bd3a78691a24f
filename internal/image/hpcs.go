package image

import (
	"encoding/json"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// hpcsScript is what the entry point of an image begins with that HPCS's container-prep has made
// (client/container_preparation/lib/image_build.py).
const hpcsScript = "/sd-container/tools/input_logic/run.sh && "

// PreparedByHPCS reports whether an image with that configuration is one that HPCS's container-prep has made.
func PreparedByHPCS(c v1.Config) bool {
	e := c.Entrypoint
	return len(e) == 3 && e[1] == "-c" && strings.HasPrefix(strings.TrimSpace(e[2]), hpcsScript)
}

const (
	// ociConfig is what Apptainer and SingularityCE call the configuration of the image that a SIF file was made of
	// (pkg/image: SIFDescOCIConfigJSON).
	ociConfig    = "oci-config.json"
	maxOCIConfig = 4 << 20 // bytes
)

// sifPrepared reports whether a SIF file says that it was made of an image that HPCS's container-prep has made.
func sifPrepared(f *sif.FileImage) bool {
	all, err := f.GetDescriptors(sif.WithDataType(sif.DataGenericJSON))
	if err != nil {
		return false
	}
	for _, d := range all {
		var c v1.Config // or a whole configuration file, whose part it is
		whole := struct{ Config *v1.Config }{&c}
		if d.Name() != ociConfig || d.Size() > maxOCIConfig {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(d.GetReader(), maxOCIConfig))
		if err == nil && json.Unmarshal(b, &whole) == nil && json.Unmarshal(b, &c) == nil && PreparedByHPCS(c) {
			return true
		}
	}
	return false
}
