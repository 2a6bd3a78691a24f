package slurm

import (
	"maps"
	"testing"
	"time"
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

func TestParseNodes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][2]int{"1": {0, 1}, "007": {0, 7}, "65536": {0, 65536}, "1-4": {1, 4}, "2-2": {2, 2}} {
		if least, most, err := ParseNodes(in); err != nil || least != want[0] || most != want[1] {
			t.Errorf("%s: %d to %d, %v", in, least, most, err)
		}
	}
	for _, in := range []string{"", "0", "-1", "+1", "1-", "-4", "0-4", "4-1", "1-4-5", "1,2,4", "1-8:2",
		"1k", "65537", "1 - 4", "99999999999999999999"} {
		if least, most, err := ParseNodes(in); err == nil {
			t.Errorf("%s: %d to %d", in, least, most)
		}
	}
}

// TestSealTime: a short job has time to run, and a long one five minutes to seal.
func TestSealTime(t *testing.T) {
	t.Parallel()
	for limit, want := range map[time.Duration]time.Duration{
		0: 5 * time.Minute, time.Second: 15 * time.Second, time.Minute: 15 * time.Second,
		61 * time.Second: 30 * time.Second, 5 * time.Minute: 75 * time.Second, 20 * time.Minute: 5 * time.Minute, 100 * time.Hour: 5 * time.Minute,
	} {
		if got := SealTime(limit); got != want {
			t.Errorf("%v: %v, want %v", limit, got, want)
		}
	}
}
