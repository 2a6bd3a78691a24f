package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestManifestRoundTrip(t *testing.T) {
	t.Parallel()
	want := testManifest()
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, d, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer // parameters are the bytes as they stand, here indented
	if err := json.Compact(&compact, got.Attest.Parameters); err != nil {
		t.Fatal(err)
	}
	got.Attest.Parameters = compact.Bytes()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if d != DigestOf(b) {
		t.Error("digest is not that of the bytes")
	}
	if v := got.Inputs(); len(v) != 1 || v[0].Name != "jp2a_input" {
		t.Errorf("inputs: %+v", v)
	}
}

// spoiltManifests say what makes a good manifest a bad one.
var spoiltManifests = map[string]func(*Manifest){
	"format":                           func(m *Manifest) { m.Format = "sealbatch-manifest/2" },
	"run":                              func(m *Manifest) { m.Run = "1" },
	"no creation":                      func(m *Manifest) { m.Created = time.Time{} },
	"expires at creation":              func(m *Manifest) { m.Expires = m.Created },
	"no service id":                    func(m *Manifest) { m.Service.ID = "" },
	"no statement key":                 func(m *Manifest) { m.Service.StatementKey = "" },
	"service without TLS":              func(m *Manifest) { m.Service.URL = "http://keys" },
	"no evidence":                      func(m *Manifest) { m.Attest.Type = "" },
	"odd type of evidence":             func(m *Manifest) { m.Attest.Type = "Slurm/1" },
	"no parameters":                    func(m *Manifest) { m.Attest.Parameters = nil },
	"parameters, a list":               func(m *Manifest) { m.Attest.Parameters = []byte("[]") },
	"parameters, null":                 func(m *Manifest) { m.Attest.Parameters = []byte("null") },
	"parameter twice":                  func(m *Manifest) { m.Attest.Parameters = []byte(`{"a":1,"a":2}`) },
	"cluster with slash":               func(m *Manifest) { m.Cluster = "a/b" },
	"no tier":                          func(m *Manifest) { m.Tier = 0 },
	"no recipient":                     func(m *Manifest) { m.Recipients = nil },
	"too many recipients":              func(m *Manifest) { m.Recipients = make([]string, 65) },
	"no node":                          func(m *Manifest) { m.Nodes = 0 },
	"too many nodes":                   func(m *Manifest) { m.Nodes = 65537 },
	"more nodes at least than at most": func(m *Manifest) { m.MinNodes = m.Nodes + 1 },
	"negative seal time":               func(m *Manifest) { m.SealSeconds = -1 },
	"another network":                  func(m *Manifest) { m.Network = "none,bridge" },
	"seal time over a day":             func(m *Manifest) { m.SealSeconds = 86401 },
	"too many inputs":                  func(m *Manifest) { m.Volumes = append(m.Volumes, make([]VolumeRef, 64)...) },
	"relative job dir":                 func(m *Manifest) { m.JobDir = "jobs/x" },
	"no volume":                        func(m *Manifest) { m.Volumes = nil },
	"no image":                         func(m *Manifest) { m.Volumes = m.Volumes[1:] },
	"image behind":                     func(m *Manifest) { m.Volumes[0], m.Volumes[1] = m.Volumes[1], m.Volumes[0] },
	"two images":                       func(m *Manifest) { m.Volumes[1].Kind = KindImage },
	"input of no kind":                 func(m *Manifest) { m.Volumes[1].Kind = "" },
	"image name":                       func(m *Manifest) { m.Volumes[0].Name = "../x" },
	"image path":                       func(m *Manifest) { m.Volumes[0].Path = "/a/../b" },
	"image id":                         func(m *Manifest) { m.Volumes[0].VolumeID = "x" },
	"image digest":                     func(m *Manifest) { m.Volumes[0].Digest = Digest{} },
	"image checksum":                   func(m *Manifest) { m.Volumes[0].Checksum = Digest{} },
	"image size":                       func(m *Manifest) { m.Volumes[0].Size = 0 },
	"input name":                       func(m *Manifest) { m.Volumes[1].Name = "a/b" },
	"input given twice":                func(m *Manifest) { m.Volumes = append(m.Volumes, m.Volumes[1]) },
	"script name":                      func(m *Manifest) { m.InputScripts[0].Name = ".." },
	"script digest":                    func(m *Manifest) { m.OutputScripts[0].Digest = Digest{} },
	"script size":                      func(m *Manifest) { m.OutputScripts[0].Size = -1 },
	"binary given twice":               func(m *Manifest) { m.Binaries = append(m.Binaries, m.Binaries[0]) },
	"too many scripts":                 func(m *Manifest) { m.InputScripts = make([]FileRef, 1025) },
	"no private part":                  func(m *Manifest) { m.Private = Digest{} },
	"no user":                          func(m *Manifest) { m.User = "" },
	"two users":                        func(m *Manifest) { m.User = "a,b" },
	"recipient of no UTF-8":            func(m *Manifest) { m.Recipients[0] = "\xff" },
	"runtime with NUL":                 func(m *Manifest) { m.Runtime = "a\x00" },
}

func TestManifestValidateRefuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range spoiltManifests {
		m := testManifest()
		spoil(&m)
		if err := m.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
		if name == "format" {
			continue // Encode sets it
		}
		if _, err := m.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	m := testManifest()
	m.Recipients = []string{strings.Repeat("a", maxDocument)}
	if _, err := m.Encode(); !errors.Is(err, ErrInvalid) {
		t.Errorf("a manifest over the bound: %v", err)
	}
	m = testManifest()
	m.Volumes[1].Kind = KindResults
	if err := m.Validate(); err != nil {
		t.Errorf("an earlier job's results as an input: %v", err)
	}
	m = testManifest()
	m.Attest, m.Cluster = Attest{Type: "token", Parameters: []byte("{}")}, ""
	if err := m.Validate(); err != nil {
		t.Errorf("no cluster, for a job that attests by token: %v", err)
	}
}

// TestParseRefuses alters a good manifest's text.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	b, err := testManifest().Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	swap := func(old, new string) string {
		if strings.Count(good, old) != 1 {
			t.Fatalf("%q is not once in:\n%s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	const nodes, arg = `"nodes": 2,`, `"age1example"`
	for what, text := range map[string]string{
		"empty":                    "",
		"null":                     "null",
		"a list":                   "[]",
		"cut":                      good[:len(good)-3],
		"trailing text":            good + "x",
		"trailing value":           good + "{}",
		"trailing brace":           good + "}",
		"unknown field":            swap(nodes, nodes+` "colour": 1,`),
		"unknown nested field":     swap(`"cluster":`, `"colour": 1, "cluster":`),
		"field in capitals":        swap(`"nodes"`, `"Nodes"`),
		"field with a Kelvin sign": swap(`"statement_key"`, "\"statement_\u212aey\""),
		"field twice":              swap(nodes, nodes+` "nodes": 3,`),
		"field twice, capitals":    swap(nodes, nodes+` "NODES": 3,`),
		"field twice, escaped":     swap(nodes, nodes+` "\u006eodes": 3,`),
		"nested field twice":       swap(`"cluster":`, `"cluster": "other", "cluster":`),
		"number as text":           swap(nodes, `"nodes": "2",`),
		"fraction":                 swap(nodes, `"nodes": 2.5,`),
		"number too large":         swap(nodes, `"nodes": 99999999999999999999,`),
		"argument of no UTF-8":     swap(arg, "\"\xff\""),
		"lone surrogate":           swap(arg, `"\ud800"`),
		"argument with NUL":        swap(arg, `"\u0000"`),
		"comment":                  swap(nodes, nodes+" // two"),
		"tier by number":           swap(`"tier": "B2"`, `"tier": 2`),
		"digest without kind":      swap(digest(7).String(), digest(7).Hex()),
		"digest in capitals":       swap(digest(7).String(), "sha256:"+strings.Repeat("0A", 32)),
		"deep":                     `{"args":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + "}",
		"too large":                good + strings.Repeat(" ", maxDocument),
	} {
		if _, _, err := Parse([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", what, err)
		}
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	d := DigestOf([]byte("abc"))
	// FIPS 180-2, appendix B.1.
	if d.String() != "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("SHA-256 of abc: %s", d)
	}
	if got, err := ParseDigest(d.String()); err != nil || got != d {
		t.Errorf("round trip: %v, %v", got, err)
	}
	for _, s := range []string{"", "sha256:", d.Hex(), d.String() + "0", d.String()[:70], "sha512:" + d.Hex(),
		strings.ToUpper(d.String()), "sha256:" + strings.Repeat("g", 64), " " + d.String(), d.String() + "\n"} {
		if _, err := ParseDigest(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v, want ErrInvalid", s, err)
		}
	}
}

func TestTier(t *testing.T) {
	t.Parallel()
	order := []string{"C", "B2", "B1", "A"}
	last := Tier(0)
	for _, s := range order {
		tier, err := ParseTier(s)
		if err != nil || tier <= last || tier.String() != s {
			t.Errorf("%s: %v %v, after %v", s, tier, err, last)
		}
		last = tier
	}
	for _, s := range []string{"", "b2", "B", "none", "A "} {
		if _, err := ParseTier(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v, want ErrInvalid", s, err)
		}
	}
	if _, err := Tier(0).MarshalText(); !errors.Is(err, ErrInvalid) {
		t.Errorf("no tier marshals: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	b, err := testManifest().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":"sealbatch-manifest/1","format":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, d, err := Parse(b)
		if err != nil {
			return
		}
		if d != DigestOf(b) {
			t.Fatal("digest of other bytes")
		}
		again, err := m.Encode()
		if errors.Is(err, ErrInvalid) && len(b) > maxDocument/8 {
			return // indenting may push it over the bound
		}
		if err != nil {
			t.Fatalf("parsed, but does not encode: %v", err)
		}
		if n, _, err := Parse(again); err != nil || !reflect.DeepEqual(n.Recipients, m.Recipients) || n.Run != m.Run ||
			!n.Expires.Equal(m.Expires) {
			t.Fatalf("does not survive a round trip: %v\n%s", err, again)
		}
	})
}
