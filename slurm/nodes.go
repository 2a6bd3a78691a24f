package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// architectures are what the kernel calls them (uname -m), and what Go and container images do.
var architectures = map[string]string{
	"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64",
	"loongarch64": "loong64", "armv7l": "arm", "i686": "386",
}

// Architectures returns the architectures of nodes, as Go spells them. A node of which Slurm does not know it is left
// out: none that has not registered yet has one.
func (c Commands) Architectures(ctx context.Context, nodes []string) (map[string]string, error) {
	text, err := c.run(ctx, nil, "scontrol", "-a", "-o", "show", "node", strings.Join(nodes, ","))
	if err != nil {
		return nil, err
	}
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("%w: scontrol's answer is longer than %d bytes", ErrSlurm, maxAnswer)
	}
	known := map[string]string{}
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) < 2 {
			continue
		}
		name, isName := strings.CutPrefix(words[0], "NodeName=")
		kernel, isArch := strings.CutPrefix(words[1], "Arch=")
		if arch := architectures[kernel]; isName && isArch && arch != "" {
			known[name] = arch
		}
	}
	return known, nil
}

// ParseNodes reads a number of nodes, "4", or a range, "1-4", as sbatch --nodes takes them. Of a number, least is 0.
func ParseNodes(s string) (least, most int, err error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		first, last = "0", s
	}
	least, most = nodeCount(first), nodeCount(last)
	if least < 0 || most < 1 || isRange && least < 1 || least > most {
		return 0, 0, errors.New("is neither a number of nodes from 1 on (4) nor the least and the most of them (1-4)")
	}
	return least, most, nil
}

// nodeCount returns -1 for what is no number of nodes.
func nodeCount(s string) int {
	if n, err := strconv.Atoi(s); err == nil && n <= maxNodes && strings.Trim(s, "0123456789") == "" {
		return n
	}
	return -1
}
