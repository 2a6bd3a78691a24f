package slurm

import (
	"maps"
	"testing"
)

// TestArchitectures reads what scontrol of Slurm 24.11 says of nodes, cut off at the end; cn3 has not registered.
func TestArchitectures(t *testing.T) {
	t.Parallel()
	c := Commands{Runner: &script{answers: map[string]answer{"scontrol": {stdout: "NodeName=cn1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 OS=Linux 6.18 #1 SMP Comment=a Arch=aarch64\n" +
		"NodeName=cn2 Arch=aarch64 CoresPerSocket=72 CPUAlloc=0\nNodeName=cn3 CoresPerSocket=1 CPUAlloc=0 Extra=Arch=x86_64\n" +
		"NodeName=cn4 Arch=vax CoresPerSocket=1\nNode cn5 not found\n\n"}}}}
	got, err := c.Architectures(t.Context(), []string{"cn1", "cn2", "cn3", "cn4", "cn5"})
	if want := map[string]string{"cn1": "amd64", "cn2": "arm64"}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}
