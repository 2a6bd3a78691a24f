package verifier

import (
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/names"
)

func TestParseNodes(t *testing.T) {
	t.Parallel()
	got, err := ParseNodes(strings.NewReader("# nodes\n\ncn1 10.77.0.4\n  cn2\t10.77.0.5 # rack 2\r\n"))
	if err != nil || len(got) != 2 || got["cn1"] != netip.MustParseAddr("10.77.0.4") || got["cn2"] != netip.MustParseAddr("10.77.0.5") {
		t.Errorf("got %v, %v", got, err)
	}
	for name, text := range map[string]string{
		"one word": "cn1", "three words": "cn1 10.0.0.1 x", "host list": "cn[1-2] 10.0.0.1", "no address": "cn1 cn2",
		"IPv6": "cn1 fe80::1", "mapped": "cn1 ::ffff:10.0.0.1", "loopback": "cn1 127.0.1.1", "null": "cn1 0.0.0.0",
		"broadcast": "cn1 255.255.255.255", "multicast": "cn1 224.0.0.1", "octal": "cn1 010.0.0.1",
	} {
		if _, err := ParseNodes(strings.NewReader("x1 10.9.9.9\n" + text + "\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: got %v, want an error for line 2", name, err)
		}
	}
	for name, text := range map[string]string{
		"name twice": "a 10.0.0.1\na 10.0.0.2", "address twice": "a 10.0.0.1\nb 10.0.0.1", "empty": "# none\n",
	} {
		if _, err := ParseNodes(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseNodes(io.LimitReader(zeros{}, maxNodesFile+10)); err == nil {
		t.Error("a file over the bound was accepted")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func FuzzParseNodes(f *testing.F) {
	f.Add("cn1 10.77.0.4\n# x\ncn2 10.77.0.5\n")
	f.Fuzz(func(t *testing.T, s string) {
		nodes, err := ParseNodes(strings.NewReader(s))
		for name, a := range nodes {
			if err == nil && (!usable(a) || !names.Node(name)) {
				t.Errorf("%q gives %q %v", s, name, a)
			}
		}
	})
}
