package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// What one account may cost the key service.

// mallory deposits a volume whose policy names more people than a cluster has:
// each release of it would read them all.
func TestAttackLargePolicies(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"policy's size"}, says: "policy of ", play: func(t *testing.T, w *world) outcome {
		p := openTo("mallory")
		for i := range 500 {
			p.Users = append(p.Users, fmt.Sprintf("u%060d", i))
		}
		v := keyservertest.NewVolume(t, "large", manifest.KindDataset, p)
		a := w.call(t, mallory, http.MethodPut, "/v1/secrets/"+v.ID, v.Secret)
		if a.status != http.StatusOK {
			return w.unmoved(t, "%s", a.refusal(t).evidence)
		}
		return gained("the key service keeps a policy of %d bytes", len(a.body))
	}}.run(t)
}
