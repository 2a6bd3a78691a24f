package e2e

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// outcome is what an attacker has in the end.
type outcome struct {
	gained   bool
	evidence string
}

func keptOut(format string, args ...any) outcome {
	return outcome{false, fmt.Sprintf(format, args...)}
}

func gained(format string, args ...any) outcome { return outcome{true, fmt.Sprintf(format, args...)} }

// attack is played against the real services, which must keep it out and say
// so, and once more without the defences that it is kept out by, where it must
// succeed: else it would not be known to bite.
type attack struct {
	play func(t *testing.T, w *world) outcome
	says string // a part of the evidence, where it is kept out
	// without are the defences (names in attack_defences_test.go) that keep
	// the attack out. Each of several does so alone.
	without []string
	// own is a key service of the attack's own even where nothing is missing:
	// its clock can be put forward, and it knows a second cluster.
	own bool
}

func (a attack) run(t *testing.T) {
	t.Helper()
	a.keptOut(t, "as it is")
	if len(a.without) > 1 {
		for _, left := range a.without {
			a.keptOut(t, "with "+left, slices.DeleteFunc(slices.Clone(a.without), func(d string) bool { return d == left })...)
		}
	}
	t.Run("control", func(t *testing.T) {
		if o := a.play(t, newWorld(t, a.own, a.without...)); !o.gained {
			t.Errorf("without %q the attack is still kept out: %s\nIt proves nothing, or something else keeps it out, too", a.without, o.evidence)
		}
	})
}

// keptOut plays the attack where it must fail.
func (a attack) keptOut(t *testing.T, name string, off ...string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		o := a.play(t, newWorld(t, a.own, off...))
		if o.gained {
			t.Errorf("the attack succeeds: %s", o.evidence)
		}
		if len(off) == 0 && !strings.Contains(o.evidence, a.says) {
			t.Errorf("kept out by %q\nwant %q", o.evidence, a.says)
		}
	})
}

// refusal is the outcome of an answer that refuses.
func (a answer) refusal(t *testing.T) outcome {
	t.Helper()
	var e keyapi.Error
	if err := manifest.DecodeJSON(a.body, &e); err != nil || a.status < 400 || e.Message == "" {
		t.Fatalf("status %d is no proper refusal: %.300s", a.status, a.body)
	}
	return keptOut("%s: %s", e.Code, e.Message)
}

// claims goes the whole way, from a credential to keys.
func (c *claimant) claims(t *testing.T, s stake, credential string) outcome {
	t.Helper()
	a := c.vouch(t, credential)
	if a.status != 200 {
		return a.refusal(t)
	}
	return c.opens(t, s, c.release(t, a.voucher(t)))
}

// opens looks for the stake's keys in an answer to a release.
func (c *claimant) opens(t *testing.T, s stake, a answer) outcome {
	t.Helper()
	if a.status != 200 {
		return a.refusal(t)
	}
	var out keyapi.Released
	a.into(t, &out)
	b, err := keyapi.OpenBundle(c.e, c.service.ID, c.claim, out.Sealed)
	if err != nil {
		return keptOut("%v", err)
	}
	for _, k := range b.Keys {
		for _, v := range s.volumes {
			if bytes.Equal(k.Key, v.Key) {
				return gained("the key of volume %s", v.ID)
			}
		}
	}
	return keptOut("none of the keys that came is one that was deposited")
}
