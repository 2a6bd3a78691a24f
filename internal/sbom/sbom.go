// Package sbom recognises software bills of materials, the lists of what an image holds, by their content:
//
//	sbom.spdx.json   SPDX 2 in JSON: "spdxVersion"; SPDX 3 in JSON-LD: an @context below https://spdx.org/rdf/
//	sbom.spdx        SPDX 2 as tags and values: a line "SPDXVersion: SPDX-2.x"
//	sbom.cdx.json    CycloneDX in JSON: "bomFormat": "CycloneDX"
//	sbom.cdx.xml     CycloneDX in XML: an element bom of http://cyclonedx.org/schema/bom/...
//	sbom.syft.json   Syft's own: a "schema" of Syft's
//
// The names are those that the specifications recommend (SPDX 2.3, annex on file names; the CycloneDX
// specification's overview). Nothing else is read of them: what they say is their author's word.
package sbom

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/inflate"
)

// ErrFormat says that something is no bill of materials that is recognised.
var ErrFormat = fault.Sentinel(fault.Usage, "not a bill of materials that is recognised")

// File is one bill of materials.
type File struct {
	Name    string // what it is called beside an image: "sbom.spdx.json"
	Content []byte
	Mtime   time.Time
}

// MaxSize bounds a bill of materials, in bytes: those of large images have 10 MB.
const MaxSize = 64 << 20

const hint = "SPDX (JSON or tag-value), CycloneDX (JSON or XML) and Syft's JSON are recognised; " +
	"syft IMAGE -o spdx-json, or trivy image --format cyclonedx IMAGE, writes one"

// Read reads the bill of materials at path, which may be a pipe.
func Read(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.Usage, fmt.Errorf("the bill of materials: %w", err), hint)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = errors.New("it is a directory")
	}
	var b []byte
	if err == nil {
		b, err = fsx.ReadAll(f, MaxSize)
	}
	if err != nil {
		return nil, fault.New(fault.Usage, fmt.Errorf("the bill of materials %s: %w", path, err), "")
	}
	name, err := Recognise(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &File{Name: name, Content: b, Mtime: st.ModTime()}, nil
}

// Recognise returns what a bill of materials is called beside an image. ErrFormat if b is none.
func Recognise(b []byte) (name string, err error) {
	text := bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))) // some programs for Windows begin with that
	switch {
	case len(text) == 0:
		return "", refuse("it is empty", hint)
	case bytes.HasPrefix(b, []byte("\xff\xfe")) || bytes.HasPrefix(b, []byte("\xfe\xff")):
		return "", refuse("it is UTF-16", "iconv -f UTF-16 -t UTF-8 makes it UTF-8")
	case inflate.Detect(b) != inflate.None:
		return "", refuse("it is compressed", "unpack it first")
	case text[0] == '{' || text[0] == '[':
		return inJSON(text)
	case text[0] == '<':
		return inXML(text)
	case isTagValue(text):
		return "sbom.spdx", nil
	}
	return "", refuse("it is neither JSON nor XML, and has no line SPDXVersion", hint)
}

func refuse(why, hint string) error {
	return fault.New(fault.Usage, fmt.Errorf("%w: %s", ErrFormat, why), hint)
}

// document is what tells one format in JSON from another, and what is wrapped around them.
type document struct {
	SPDXVersion string          `json:"spdxVersion"`
	BOMFormat   string          `json:"bomFormat"`
	Context     json.RawMessage `json:"@context"` // a string, or a list with one
	Schema      json.RawMessage `json:"schema"`   // Syft's: {"version": ..., "url": ...}

	Predicate string          `json:"predicateType"` // in-toto
	Payload   string          `json:"payloadType"`   // DSSE
	GitHub    json.RawMessage `json:"sbom"`          // its dependency graph
	BuildKit  json.RawMessage `json:"SPDX"`          // docker buildx imagetools inspect
}

func inJSON(b []byte) (name string, err error) {
	var d document
	if b[0] == '[' {
		return "", refuse("it is a list", hint)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return "", refuse("its JSON cannot be read: "+err.Error(), hint)
	}
	var schema struct {
		URL string `json:"url"`
	}
	_ = json.Unmarshal(d.Schema, &schema) // may be of another kind
	switch {
	case strings.HasPrefix(d.SPDXVersion, "SPDX-"), bytes.Contains(d.Context, []byte(`"https://spdx.org/rdf/`)):
		return "sbom.spdx.json", nil
	case d.BOMFormat == "CycloneDX":
		return "sbom.cdx.json", nil
	case strings.Contains(schema.URL, "anchore/syft"):
		return "sbom.syft.json", nil
	case d.Predicate != "" || d.Payload != "":
		return "", refuse("it is a signed statement about one", "give what it wraps alone: the statement's predicate")
	case d.GitHub != nil:
		return "", refuse("one is wrapped in it", "jq .sbom FILE unwraps it")
	case d.BuildKit != nil:
		return "", refuse("one is wrapped in it", "jq .SPDX FILE unwraps it")
	}
	return "", refuse("its JSON is another", hint)
}

// inXML looks at the outermost element, and reads all to see whether it is whole.
func inXML(b []byte) (name string, err error) {
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // its own names are ASCII
	outer := xml.Name{}
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", refuse("its XML cannot be read: "+err.Error(), hint)
		}
		if e, ok := t.(xml.StartElement); ok && outer.Local == "" {
			outer = e.Name
		}
	}
	switch {
	case outer.Local == "bom" && strings.HasPrefix(outer.Space, "http://cyclonedx.org/schema/bom/"):
		return "sbom.cdx.xml", nil
	case outer.Local == "RDF":
		return "", refuse("it is RDF", "if it is SPDX, pyspdxtools -i FILE -o sbom.spdx.json converts it")
	}
	return "", refuse(fmt.Sprintf("its XML is another, %.40q", outer.Local), hint)
}

// maxHead bounds where the version of tags and values stands: comments may precede it.
const maxHead = 64 << 10

func isTagValue(b []byte) bool {
	for line := range bytes.Lines(b[:min(len(b), maxHead)]) {
		line = bytes.TrimSpace(line)
		if value, ok := bytes.CutPrefix(line, []byte("SPDXVersion:")); ok {
			return bytes.HasPrefix(bytes.TrimSpace(value), []byte("SPDX-"))
		}
		if len(line) > 0 && line[0] != '#' && !bytes.Contains(line, []byte(":")) {
			return false
		}
	}
	return false
}
