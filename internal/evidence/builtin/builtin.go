// Package builtin has the table of the types of evidence that nodes can make.
package builtin

import (
	"maps"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/evidence/token"
	"github.com/sealbatch/sealbatch/internal/evidence/voucher"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Types is the table. Nobody changes it.
var Types = evidence.Types{
	keyapi.EvidenceSlurm: voucher.Type,
	keyapi.EvidenceToken: token.Type,
}

// Names returns the types' names, for people.
func Names() string { return strings.Join(slices.Sorted(maps.Keys(Types)), ", ") }

// Default returns the type by which a job attests whose submitter names none but
// only the least tier: tokens where the submitter's own word is enough, else the
// cluster's verifier. It is the one place where a tier decides this.
func Default(least manifest.Tier) string {
	if least <= manifest.TierC {
		return keyapi.EvidenceToken
	}
	return keyapi.EvidenceSlurm
}
