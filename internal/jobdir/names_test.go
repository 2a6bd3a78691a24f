package jobdir

import (
	"strings"
	"testing"
)

func TestNodeNames(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]uint32{
		"cn1": 0, "cn.rack": 0, "cn1.r1": 1, "cn.rack.r12": 12, "cn1.r4294967296": 0,
	} {
		if got := Restart(name); got != restart {
			t.Errorf("Restart(%q) = %d, want %d", name, got, restart)
		}
	}
	for _, restart := range []uint32{0, 1, 1<<32 - 1} {
		name := NodeName("cn.rack", restart)
		if got := Restart(name); got != restart || !IsNodeName(name) {
			t.Errorf("restart %d became %d, as %s", restart, got, name)
		}
	}
	for _, name := range []string{"", ".", "..", ".r1", "-cn1", "cn1/x", "cn1\x1b[2J", "cn1\n", strings.Repeat("n", 302)} {
		if IsNodeName(name) {
			t.Errorf("%q passes for a node's", name)
		}
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	dir := Path("/scratch/p", "0123456789abcdef0123456789abcdef")
	if dir != "/scratch/p/sealbatch-0123456789abcdef" {
		t.Errorf("Path = %q", dir)
	}
	if got := NodePath(dir, NodeName("cn1", 2), ReceiptName); got != dir+"/nodes/cn1.r2/receipt.jws" {
		t.Errorf("NodePath = %q", got)
	}
	if got := NodePath(dir, ""); got != dir+"/nodes" {
		t.Errorf("NodePath = %q", got)
	}
}
