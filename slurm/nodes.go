package slurm

import (
	"bytes"
	"context"
	"fmt"
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
