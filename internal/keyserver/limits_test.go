package keyserver

import (
	"errors"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
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
