package sifbuild

import (
	"encoding/json"
	"maps"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// metadata is what the runtime's inspect shows, which it takes from the SIF file without starting a container
// (pkg/inspect/metadata.go in Apptainer and SingularityCE).
type metadata struct {
	Data struct {
		Attributes attributes `json:"attributes"`
	} `json:"data"`
	Type string `json:"type"`
}

type attributes struct {
	Environment map[string]string `json:"environment,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Runscript   string            `json:"runscript,omitempty"`
	Deffile     string            `json:"deffile,omitempty"`
	Startscript string            `json:"startscript,omitempty"`
}

// inspectJSON returns the metadata of an image with these files below /.singularity.d.
func inspectJSON(files map[string]string, labels map[string]string) ([]byte, error) {
	text := func(name string) string { return strings.TrimRight(files[name], "\n") }
	m := metadata{Type: "container"}
	m.Data.Attributes = attributes{
		Environment: map[string]string{},
		Labels:      labels, Runscript: text("runscript"), Deffile: text("Singularity"), Startscript: text("startscript"),
	}
	for _, name := range []string{envImage, "env/90-environment.sh"} {
		m.Data.Attributes.Environment["/.singularity.d/"+name] = text(name)
	}
	return json.Marshal(m)
}

// labelsOf returns the image's labels, and those that builders of SIF files add.
func labelsOf(c *v1.ConfigFile, arch string, from origin) map[string]string {
	labels := map[string]string{
		"org.label-schema.schema-version":                      "1.0",
		"org.label-schema.build-arch":                          arch,
		"org.label-schema.build-date":                          clamp(c.Created.Time).Format(time.RFC3339),
		"org.label-schema.usage.singularity.deffile.bootstrap": from.bootstrap,
		"org.label-schema.usage.singularity.deffile.from":      from.from,
	}
	maps.Copy(labels, c.Config.Labels)
	return labels
}

// origin is what the definition file says: where the image comes from.
type origin struct{ bootstrap, from string }

func (o origin) deffile() string { return "bootstrap: " + o.bootstrap + "\nfrom: " + o.from + "\n\n" }

// originOf returns the origin of the image that was taken from reference. The digest is what counts: not a
// tag, which may mean another image tomorrow, and not a path on somebody's machine.
func originOf(reference, digest string) origin {
	for _, kind := range []string{"oci-archive", "oci", "docker-archive", "docker-daemon"} {
		if strings.HasPrefix(reference, kind+":") {
			return origin{kind, digest}
		}
	}
	name, _, _ := strings.Cut(reference, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	return origin{"docker", name + "@" + digest}
}
