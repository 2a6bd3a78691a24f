package manifest

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestInfoRoundTrip(t *testing.T) {
	t.Parallel()
	plain := testInfo()
	odd := testInfo()
	// Values that a careless YAML writer would turn into numbers, booleans or
	// other structure.
	odd.Kind, odd.Name, odd.AccessRole = KindImage, "yes: [no] # 'x' \"y\" ünï", "0x10"
	odd.VolumeID = "123456789012345678901234567890e1"
	odd.SpiffeID, odd.SecretPath, odd.Service = "~", "1.5", "2026-01-01"
	odd.PathAtRest = "/scratch/*&!|>%@`/{a}/ünï \u05d0\u200d\u00a0\u65e5"
	for _, want := range []Info{plain, odd} {
		b, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseInfo(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
	}
}

func TestInfoValidateRefuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Info){
		"format":                 func(i *Info) { i.Format = "sealbatch-info/2" },
		"no kind":                func(i *Info) { i.Kind = "" },
		"kind":                   func(i *Info) { i.Kind = "output" },
		"short volume id":        func(i *Info) { i.VolumeID = testID[1:] },
		"upper-case volume id":   func(i *Info) { i.VolumeID = strings.ToUpper(testID) },
		"volume id, newline":     func(i *Info) { i.VolumeID = testID + "\n" },
		"zero digest":            func(i *Info) { i.Digest = Digest{} },
		"zero size":              func(i *Info) { i.Size = 0 },
		"negative size":          func(i *Info) { i.Size = -1 },
		"no checksum":            func(i *Info) { i.Checksum = "" },
		"checksum without kind":  func(i *Info) { i.Checksum = digest(2).Hex() },
		"zero checksum":          func(i *Info) { i.Checksum = Digest{}.String() },
		"no name":                func(i *Info) { i.Name = "" },
		"name is a dot":          func(i *Info) { i.Name = "." },
		"name leads up":          func(i *Info) { i.Name = ".." },
		"name with a slash":      func(i *Info) { i.Name = "a/b" },
		"name with a newline":    func(i *Info) { i.Name = "a\nb" },
		"name with NUL":          func(i *Info) { i.Name = "a\x00b" },
		"name with DEL":          func(i *Info) { i.Name = "a\x7fb" },
		"name of no UTF-8":       func(i *Info) { i.Name = "a\xffb" },
		"name with U+FFFD":       func(i *Info) { i.Name = "a\ufffdb" },
		"name with CSI":          func(i *Info) { i.Name = "a\u009b2Kb" },
		"name that turns round":  func(i *Info) { i.Name = "a\u202eb" },
		"name too long":          func(i *Info) { i.Name = strings.Repeat("a", 256) },
		"relative path":          func(i *Info) { i.PathAtRest = "scratch/x" },
		"path leads up":          func(i *Info) { i.PathAtRest = "/scratch/../etc/x" },
		"path with double slash": func(i *Info) { i.PathAtRest = "/scratch//x" },
		"path with newline":      func(i *Info) { i.PathAtRest = "/scratch/x\ny" },
		"path with CSI":          func(i *Info) { i.PathAtRest = "/scratch/x\u009b2K\u009b1A" },
		"path with DEL":          func(i *Info) { i.PathAtRest = "/scratch/x\x7f" },
		"path that turns round":  func(i *Info) { i.PathAtRest = "/scratch/x\u202eabc" },
		"path with an isolate":   func(i *Info) { i.PathAtRest = "/scratch/x\u2066abc" },
		"path too long":          func(i *Info) { i.PathAtRest = "/" + strings.Repeat("a", 4096) },
		"policy":                 func(i *Info) { i.Policy.Nodes = nil },
	} {
		i := testInfo()
		spoil(&i)
		if err := i.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
		if name == "format" {
			continue // Encode sets it
		}
		if b, err := i.Encode(); err == nil {
			t.Errorf("%s: encoded:\n%s", name, b)
		}
	}
}

func TestPolicyValidate(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Policy){
		"groups alone":     func(p *Policy) { p.Users = nil },
		"users alone":      func(p *Policy) { p.Groups = nil },
		"any node":         func(p *Policy) { p.Nodes = []string{"*"} },
		"domain in a user": func(p *Policy) { p.Users = []string{"Alice.B@example.org"} },
		"machine account":  func(p *Policy) { p.Users = []string{"host$"} },
		"no limit":         func(p *Policy) { p.Releases = 0 },
		"any account":      func(p *Policy) { p.Accounts, p.Partitions = nil, nil },
	} {
		p := testPolicy()
		change(&p)
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, spoil := range map[string]func(*Policy){
		"nobody":              func(p *Policy) { p.Users, p.Groups = nil, nil },
		"no node":             func(p *Policy) { p.Nodes = nil },
		"any node and one":    func(p *Policy) { p.Nodes = []string{"*", "cn1"} },
		"node pattern":        func(p *Policy) { p.Nodes = []string{"cn*"} },
		"reversed range":      func(p *Policy) { p.Nodes = []string{"cn[3-1]"} },
		"65 nodes":            func(p *Policy) { p.Nodes = slices.Repeat([]string{"cn1"}, 65) },
		"65 ranges":           func(p *Policy) { p.Nodes = []string{"cn[1" + strings.Repeat(",3-4", 64) + "]"} },
		"empty user":          func(p *Policy) { p.Users = []string{""} },
		"user like an option": func(p *Policy) { p.Users = []string{"+1000"} },
		"user with a newline": func(p *Policy) { p.Users = []string{"alice\n"} },
		"group with a comma":  func(p *Policy) { p.Groups = []string{"a,b"} },
		"account, blank":      func(p *Policy) { p.Accounts = []string{"a b"} },
		"cluster, space":      func(p *Policy) { p.Clusters = []string{"a b"} },
		"partition, slash":    func(p *Policy) { p.Partitions = []string{"a/b"} },
		"no tier":             func(p *Policy) { p.Tier = 0 },
		"unknown tier":        func(p *Policy) { p.Tier = TierA + 1 },
		"no expiry":           func(p *Policy) { p.Expires = time.Time{} },
		"negative releases":   func(p *Policy) { p.Releases = -1 },
		"another network":     func(p *Policy) { p.Network = "bridge" },
		"too many":            func(p *Policy) { p.Users = make([]string, maxPolicyNames+1) },
	} {
		p := testPolicy()
		spoil(&p)
		if err := p.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}

// damagedInfos returns texts that are nearly good, an info file's.
func damagedInfos(t *testing.T, good string) map[string]string {
	t.Helper()
	swap := func(old, new string) string {
		if strings.Count(good, old) != 1 {
			t.Fatalf("%q is not once in:\n%s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	const name, size = "name: jp2a_input\n", "size: 123456\n"
	return map[string]string{
		"empty":                 "",
		"null":                  "null\n",
		"info is null":          "info:\n",
		"a list":                "- info\n",
		"not YAML":              "info: {",
		"unknown field":         swap(name, name+"    colour: red\n"),
		"unknown top field":     good + "more: 1\n",
		"unknown policy field":  swap("releases: 3", "releases: 3\n        sudo: true"),
		"field in capitals":     swap("name: jp2a", "Name: jp2a"),
		"field given twice":     swap(name, name+"    name: other\n"),
		"document twice":        good + "---\n" + good,
		"empty second document": good + "---\n",
		"junk at the end":       good + "...\nx\n",
		"info twice":            good + good,
		"anchor":                swap(name, "name: &a jp2a_input\n"),
		"alias":                 swap("access_role: \"\"", "access_role: &a x\n    spiffeID: *a") + "",
		"merge key":             swap(name, name+"    <<: {size: 5}\n"),
		"explicit tag":          swap(name, "name: !!str jp2a_input\n"),
		"binary":                swap(name, "name: !!binary anAyYQ==\n"),
		"custom tag":            swap(name, "name: !x jp2a_input\n"),
		"fraction":              swap(size, "size: 1.5\n"),
		"exponent":              swap(size, "size: 1e3\n"),
		"infinity":              swap(size, "size: .inf\n"),
		"octal size":            swap(size, "size: 0123456\n"),
		"hexadecimal size":      swap(size, "size: 0x1000\n"),
		"size with underscores": swap(size, "size: 123_456\n"),
		"size beyond 64 bits":   swap(size, "size: 99999999999999999999\n"),
		"size as text":          swap(size, "size: \"123456\"\n"),
		"name is a list":        swap(name, "name: [jp2a_input]\n"),
		"name is no UTF-8":      swap(name, "name: \"a\xffb\"\n"),
		"name escapes to FFFD":  swap(name, "name: \"a\\uFFFDb\"\n"),
		"name escapes newline":  swap(name, "name: \"a\\nb\"\n"),
		"no expiry":             swap("expires: ", "# expires: "),
		"tier":                  swap("tier: B2", "tier: Z"),
		"digest in capitals":    swap("volume_digest: sha256:0101", "volume_digest: sha256:0A01"),
		"deep flow":             "info: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"deep maps":             "info: " + strings.Repeat("{a: ", 200) + strings.Repeat("}", 200),
		"bomb": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n" +
			"d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ninfo: *d\n",
		"too large": good + strings.Repeat("#", maxDocument),
	}
}

// TestParseInfoRefuses alters a good file's text.
func TestParseInfoRefuses(t *testing.T) {
	t.Parallel()
	b, err := testInfo().Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	for what, text := range damagedInfos(t, good) {
		if i, err := ParseInfo([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %+v, %v, want ErrInvalid", what, i, err)
		}
	}
	if _, err := ParseInfo([]byte(strings.ReplaceAll(good, "\n", "\r\n"))); err != nil {
		t.Errorf("lines ended by CR LF: %v", err)
	}
}

func TestHPCSInfo(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/hpcs.info.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseInfo(b); !errors.Is(err, ErrHPCSInfo) {
		t.Errorf("got %v, want ErrHPCSInfo", err)
	}
	// A format field makes it a broken file of our own.
	b = append(bytes.TrimRight(b, "\n"), "\n  format: sealbatch-info/9\n"...)
	if _, err := ParseInfo(b); !errors.Is(err, ErrInvalid) || errors.Is(err, ErrHPCSInfo) {
		t.Errorf("unknown format: got %v, want ErrInvalid", err)
	}
}

func FuzzParseInfo(f *testing.F) {
	b, err := testInfo().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("info: {format: x, <<: *a}\n---\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := ParseInfo(b)
		if err != nil {
			return
		}
		again, err := i.Encode()
		if err != nil {
			t.Fatalf("parsed, but does not encode: %v", err)
		}
		j, err := ParseInfo(again)
		if err != nil {
			t.Fatalf("does not parse again: %v\n%s", err, again)
		}
		if !i.Created.Equal(j.Created) || !i.Policy.Expires.Equal(j.Policy.Expires) {
			t.Fatalf("times differ: %v %v", i, j)
		}
		i.Created, j.Created, i.Policy.Expires, j.Policy.Expires = testTime, testTime, testTime, testTime
		x, _ := i.Encode()
		y, _ := j.Encode()
		if !bytes.Equal(x, y) {
			t.Fatalf("differs after a round trip:\n%s\n%s", x, y)
		}
	})
}
