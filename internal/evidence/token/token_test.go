package token

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestPlanRefuses: a job that demands more than tokens prove is refused before it is submitted.
func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	if _, err := Type.Plan(evidence.Submission{Tier: manifest.TierC}); err != nil {
		t.Error(err)
	}
	_, err := Type.Plan(evidence.Submission{Tier: manifest.TierB2})
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.Hint(err), "--tier C") {
		t.Errorf("%v; %s", err, fault.Hint(err))
	}
}

func TestMaker(t *testing.T) {
	t.Parallel()
	token := strings.Repeat("A", 43)
	n := evidence.Node{Credential: token}
	m, err := Type.Maker(json.RawMessage("{}"), n)
	if err != nil || m.Relay.URL != "" {
		t.Fatalf("%+v, %v", m, err)
	}
	ev, err := m.Attest(t.Context(), "keys", keyapi.Claim{})
	var p keyapi.TokenPayload
	if err != nil || ev.Decode(keyapi.EvidenceToken, &p) != nil || strings.Contains(p.Proof, token) {
		t.Errorf("%+v, %v", ev, err)
	}
	if _, err := Type.Maker(json.RawMessage("{}"), evidence.Node{}); err == nil {
		t.Error("no token is no error")
	}
	for _, bad := range []string{"", "null", `{"x":1}`, "[]"} {
		if _, err := Type.Maker(json.RawMessage(bad), n); err == nil {
			t.Errorf("parameters %q passed", bad)
		}
	}
}
