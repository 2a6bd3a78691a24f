package verifier

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/names"
)

const maxNodesFile = 16 << 20 // bytes

// ParseNodes reads the table that says which address belongs to which node:
// one "NODE ADDRESS" a line, NODE as in slurm.conf's NodeName, ADDRESS the
// IPv4 address that MUNGE on that node gives itself; # begins a comment. Names
// and addresses may not repeat, and loopback addresses are refused: every
// host calls itself so.
func ParseNodes(r io.Reader) (map[string]netip.Addr, error) {
	b, err := fsx.ReadAll(r, maxNodesFile)
	if err != nil {
		return nil, fmt.Errorf("read the table of nodes: %w", err)
	}
	nodes, owner := map[string]netip.Addr{}, map[netip.Addr]string{}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		name, addr, err := parseNode(f)
		if err != nil {
			return nil, fmt.Errorf("table of nodes, line %d: %w", n, err)
		}
		if _, ok := nodes[name]; ok {
			return nil, fmt.Errorf("table of nodes, line %d: node %s is listed twice", n, name)
		}
		if other, ok := owner[addr]; ok {
			return nil, fmt.Errorf("table of nodes, line %d: %s and %s share the address %s", n, other, name, addr)
		}
		nodes[name], owner[addr] = addr, name
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("table of nodes: lists none; write one line NODE ADDRESS for each")
	}
	return nodes, nil
}

func parseNode(f []string) (string, netip.Addr, error) {
	if len(f) != 2 || !names.Node(f[0]) {
		return "", netip.Addr{}, fmt.Errorf("%.80q is not NODE ADDRESS", strings.Join(f, " "))
	}
	a, err := netip.ParseAddr(f[1])
	if err != nil || !a.Is4() {
		return "", netip.Addr{}, fmt.Errorf("%.80q is not an IPv4 address (MUNGE knows no other)", f[1])
	}
	if !usable(a) {
		return "", netip.Addr{}, fmt.Errorf("%s cannot tell a node from others", a)
	}
	return f[0], a, nil
}

// usable refuses what any host may call itself; Debian's /etc/hosts makes
// MUNGE say 127.0.1.1 (munged --origin cures it).
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
