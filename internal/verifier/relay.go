package verifier

import (
	"bytes"
	"fmt"
	"net/http"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyapi"
)

// serveRelay passes one call on to the key service and its answer back,
// unread: what matters in either is sealed or signed.
func (v *Verifier) serveRelay(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery != "" {
		writeError(w, &refusal{code: keyapi.CodeBadRequest, message: "relayed calls take no query"})
		return
	}
	// r.Pattern, not the path as sent: exactly the calls that are relayed.
	status, header, body, err := v.ask(r)
	if err != nil {
		v.config.Log.Warn("relay failed", "remote", r.RemoteAddr, "call", r.Pattern, "reason", err.Error())
		writeError(w, unavailable(err, "the key service does not answer the verifier"))
		return
	}
	for _, k := range []string{"Content-Type", "Retry-After"} {
		if s := header.Get(k); s != "" {
			w.Header().Set(k, s)
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body) // a peer that is gone cannot be told
}

func (v *Verifier) ask(r *http.Request) (int, http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, v.config.ServiceURL+r.URL.Path, bytes.NewReader(bodyOf(r)))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := v.relay.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return 0, nil, nil, fmt.Errorf("the key service answered with a redirect (%s)", resp.Status)
	}
	b, err := fsx.ReadAll(resp.Body, keyapi.MaxBody)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("the key service's answer: %w", err)
	}
	return resp.StatusCode, resp.Header, b, nil
}
