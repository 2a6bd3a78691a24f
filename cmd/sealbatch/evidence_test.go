package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/sealbatch/sealbatch/internal/evidence/builtin"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestEvidenceTablesAgree: what nodes can make, the key service can judge.
func TestEvidenceTablesAgree(t *testing.T) {
	t.Parallel()
	made, judged := slices.Sorted(maps.Keys(builtin.Types)), slices.Sorted(maps.Keys(attestors))
	if !slices.Equal(made, judged) {
		t.Errorf("nodes make %q, the key service judges %q", made, judged)
	}
	for least, want := range map[manifest.Tier]string{
		manifest.TierC: "token", manifest.TierB2: "slurm", manifest.TierB1: "slurm", manifest.TierA: "slurm",
	} {
		if got := builtin.Default(least); got != want {
			t.Errorf("from tier %s on, jobs attest by %s, not %s", least, got, want)
		}
	}
}
