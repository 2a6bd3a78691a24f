package jobprep

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/slurm"
)

const hintPlatform = "prepare the image for the nodes (container-prep --platform, or a .sif file that was built there), choose others, " +
	"or submit it all the same with --force"

// maxAsked is of how many nodes of a partition Slurm is asked what they are: they are alike, as a rule.
const maxAsked = 256

// unknownArch is what a SIF file says that does not say what it is for.
const unknownArch = "unknown"

// alsoRuns are architectures whose programs another runs, too, as the container runtimes have it.
var alsoRuns = map[string]string{"amd64": "386", "arm64": "arm"}

// foreign returns why the image can run on none of the nodes that the job may get, as far as Slurm knows them; "" if it
// can. If it can on some only it says so.
func (p *planned) foreign(ctx context.Context, chosen []slurm.Partition) string {
	image := p.volumes[0]
	if image.Image == nil {
		return ""
	}
	want := architecture(image.Image.Platform)
	if want == unknownArch {
		return ""
	}
	known := p.architectures(ctx, chosen)
	var others []string
	for name, arch := range known {
		if arch != want && alsoRuns[arch] != want {
			others = append(others, name)
		}
	}
	if len(others) == 0 {
		return ""
	}
	node := slices.Min(others)
	why := fmt.Sprintf("the image %s is for %s, and node %s is linux/%s", image.Name, image.Image.Platform, node, known[node])
	if len(others) < len(known) {
		p.d.Log.Warn(why + ": choose nodes that can run it, with --nodelist, --partition or --constraint")
		return ""
	}
	return why
}

// architectures returns what is known of the nodes that the job may get.
func (p *planned) architectures(ctx context.Context, chosen []slurm.Partition) map[string]string {
	nodes := slices.Clone(p.nodes)
	if p.o.Script.NodeList == "" {
		for _, c := range chosen {
			more, err := p.d.Slurm.Hostnames(ctx, c.Nodes)
			if err != nil {
				p.d.Log.Debug("the partition's nodes are not known", "error", err)
			}
			nodes = append(nodes, more[:min(len(more), maxAsked)]...)
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	known, err := p.d.Slurm.Architectures(ctx, nodes)
	if err != nil {
		p.d.Log.Debug("the nodes' architectures are not known", "error", err)
	}
	return known
}

// architecture returns the middle of "linux/arm64/v8".
func architecture(platform string) string {
	_, arch, _ := strings.Cut(platform, "/")
	arch, _, _ = strings.Cut(arch, "/")
	return arch
}
