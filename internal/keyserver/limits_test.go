package keyserver

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

func code(err error) string {
	if r, ok := errors.AsType[*service.Refusal](err); ok {
		return r.Code
	}
	return ""
}

func TestReplayCache(t *testing.T) {
	t.Parallel()
	c := newReplayCache(2)
	now := time.Now()
	for i, tc := range []struct {
		account, nonce string
		after          time.Duration
		want           string
	}{
		{"a", "1", 0, ""}, {"a", "1", 0, keyapi.CodeUnauthorised}, {"b", "1", 0, ""},
		{"a", "2", time.Minute, ""}, {"a", "3", time.Minute, keyapi.CodeTooMany}, {"b", "3", time.Minute, ""},
		{"a", "1", 2 * keyapi.MaxSkew, keyapi.CodeUnauthorised}, // could still be within its time
		{"a", "3", 2*keyapi.MaxSkew + 2*time.Second, ""},
	} {
		if got := code(c.use(tc.account, tc.nonce, now.Add(tc.after))); got != tc.want {
			t.Errorf("step %d: %q, want %q", i, got, tc.want)
		}
	}
}

// TestStartsAreBounded serves start after start of a job: its record stays as small
// as it is, and there is an end.
func TestStartsAreBounded(t *testing.T) {
	t.Parallel()
	m := manifestRecord{Tier: manifest.TierC, Nodes: 1, Bound: &manifest.Job{Cluster: "c", ID: 7, ArrayTask: -1}}
	n := uint32(0)
	for ; m.servable(10*n) == nil; n++ {
		m.serve(10 * n)
	}
	b, err := json.Marshal(m)
	if err != nil || n != maxStarts || len(b) > 600 {
		t.Errorf("%d starts, a record of %d bytes, %v", n, len(b), err)
	}
}

// TestReplayCacheForgets: an account that makes no requests any more costs nothing.
func TestReplayCacheForgets(t *testing.T) {
	t.Parallel()
	c := newReplayCache(2)
	now := time.Now()
	for _, account := range []string{"a", "b"} {
		if err := c.use(account, "1", now); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.use("c", "1", now.Add(time.Hour)); err != nil || len(c.seen) != 1 {
		t.Errorf("%d accounts are remembered, %v", len(c.seen), err)
	}
}
