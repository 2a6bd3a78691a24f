package sbom

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
)

// samples are what programs write, shortened, by the name that it gets.
var samples = map[string][]string{
	"sbom.spdx.json": {
		`{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0"}`,
		"\xef\xbb\xbf\r\n{\"spdxVersion\": \"SPDX-2.2\"}\r\n",
		`{"@context":"https://spdx.org/rdf/3.0.1/spdx-context.jsonld","@graph":[]}`,
		`{"@context":["https://spdx.org/rdf/3.0.1/spdx-context.jsonld",{"x":"y"}],"@graph":[]}`,
	},
	"sbom.cdx.json": {`{"$schema":"http://cyclonedx.org/schema/bom-1.6.schema.json","bomFormat":"CycloneDX"}`},
	"sbom.syft.json": {
		`{"artifacts":[],"schema":{"version":"16.0.0","url":"https://raw.githubusercontent.com/anchore/syft/main/schema/x.json"}}`,
	},
	"sbom.cdx.xml": {
		"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<bom xmlns=\"http://cyclonedx.org/schema/bom/1.6\" version=\"1\"></bom>",
		"<!-- c --><b:bom xmlns:b=\"http://cyclonedx.org/schema/bom/1.4\"/>",
	},
	"sbom.spdx": {
		"SPDXVersion: SPDX-2.3\nDataLicense: CC0-1.0\n",
		"# made by hand\r\n\r\n SPDXVersion:SPDX-2.2\r\n",
		"DataLicense: CC0-1.0\nSPDXVersion: SPDX-2.3\n",
	},
}

// others are none that is recognised, by what is said of them.
var others = map[string][]string{
	"empty": {"", " \n"}, "compressed": {"\x1f\x8b\x08x"}, "UTF-16": {"\xff\xfe{\x00"}, "a list": {"[]"},
	"JSON cannot be read": {`{"spdxVersion":"SPDX-2.3"`, `{"spdxVersion":"SPDX-2.3"} x`},
	"JSON is another":     {`{}`, `{"spdxVersion":"2.3"}`, `{"bomFormat":"cyclone"}`, `{"schema":"x","@context":7}`},
	"signed statement": {
		`{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document","predicate":{}}`,
		`{"payloadType":"application/vnd.in-toto+json","payload":"e30="}`,
	},
	"wrapped":            {`{"sbom":{"spdxVersion":"SPDX-2.3"}}`, `{"SPDX":{"spdxVersion":"SPDX-2.3"}}`},
	"XML cannot be read": {`<bom xmlns="http://cyclonedx.org/schema/bom/1.6">`, `<`},
	"XML is another":     {`<bom/>`, `<x><bom xmlns="http://cyclonedx.org/schema/bom/1.6"/></x>`},
	"it is RDF":          {`<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>`},
	"no line SPDXVersion": {
		"packages:\n", "some text\nSPDXVersion: SPDX-2.3\n", "SPDXVersion: 2\n", "\x7fELF: \x00",
	},
}

func TestRecognise(t *testing.T) {
	t.Parallel()
	for want, texts := range samples {
		for _, text := range texts {
			if name, err := Recognise([]byte(text)); err != nil || name != want {
				t.Errorf("%s: %q, %v", text, name, err)
			}
		}
	}
	for says, texts := range others {
		for _, text := range texts {
			name, err := Recognise([]byte(text))
			if !errors.Is(err, ErrFormat) || fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), says) {
				t.Errorf("%q: %q, %v", text, name, err)
			}
			if fault.Hint(err) == "" {
				t.Errorf("%q: no hint", text)
			}
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, large := filepath.Join(dir, "good"), filepath.Join(dir, "large")
	if err := os.WriteFile(good, []byte(`{"bomFormat":"CycloneDX"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, MaxSize+1)); err != nil {
		t.Fatal(err)
	}
	f, err := Read(good)
	if err != nil || f.Name != "sbom.cdx.json" || len(f.Content) != 25 || f.Mtime.IsZero() {
		t.Errorf("%+v, %v", f, err)
	}
	for path, want := range map[string]error{large: fsx.ErrTooLarge, dir: nil, filepath.Join(dir, "none"): os.ErrNotExist} {
		if _, err := Read(path); fault.ClassOf(err) != fault.Usage || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func FuzzRecognise(f *testing.F) {
	for _, texts := range samples {
		for _, text := range texts {
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if name, err := Recognise(b); (err == nil) != strings.HasPrefix(name, "sbom.") || err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("%q, %v", name, err)
		}
	})
}
