package keyclient_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestOtherManifests refuses answers about something else than what was asked.
func TestOtherManifests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.Client(t, nil).Release(t.Context(), w.req); err != nil {
		t.Fatal(err)
	}
	mine, err := w.Client(t, w.alice).Manifest(t.Context(), w.req.Digest)
	if err != nil || mine.Job == nil {
		t.Fatalf("%+v, %v", mine, err)
	}
	for name, change := range map[string]func(*keyapi.ManifestEntry){
		"": func(*keyapi.ManifestEntry) {}, "digest": func(m *keyapi.ManifestEntry) { m.Digest = manifest.DigestOf(nil) },
		"job": func(m *keyapi.ManifestEntry) { m.Job.ID++ }, "cluster": func(m *keyapi.ManifestEntry) { m.Job.Cluster = "x" },
		"no job": func(m *keyapi.ManifestEntry) { m.Job = nil },
	} {
		entry, job := mine, *mine.Job
		entry.Job = &job
		change(&entry)
		relay := w.front(t, func(h http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("GET /relay/v1/service", h)
			mux.HandleFunc("GET /relay/v1/manifests", func(rw http.ResponseWriter, _ *http.Request) {
				keyapi.WriteJSON(rw, http.StatusOK, keyapi.ManifestList{Manifests: []keyapi.ManifestEntry{entry}})
			})
			mux.HandleFunc("GET /relay/v1/manifests/{digest}", func(rw http.ResponseWriter, _ *http.Request) {
				keyapi.WriteJSON(rw, http.StatusOK, entry)
			})
			return mux
		})
		c := newClient(t, keyclient.Options{URL: relay.URL + "/relay", CA: caOf(relay), Signer: w.alice})
		_, err := c.Manifest(t.Context(), mine.Digest)
		if bad := name == "digest"; bad != errors.Is(err, keyclient.ErrAnswer) || !bad && err != nil {
			t.Errorf("another %q, of a digest: %v", name, err)
		}
		_, err = c.ManifestsOf(t.Context(), w.req.Job.ID, w.req.Job.Cluster)
		if bad := name != "" && name != "digest"; bad != errors.Is(err, keyclient.ErrAnswer) || !bad && err != nil {
			t.Errorf("another %q, of a job: %v", name, err)
		}
	}
}
