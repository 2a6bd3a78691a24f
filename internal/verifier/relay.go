package verifier

import (
	"bytes"
	"fmt"
	"net/http"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/service"
)

// serveRelay passes one call on to the key service and its answer back,
// unread: what matters in either is sealed or signed.
func (v *Verifier) serveRelay(w http.ResponseWriter, r *http.Request, body []byte) error {
	if r.URL.RawQuery != "" {
		return service.Refuse(keyapi.CodeBadRequest, "relayed calls take no query")
	}
	// r.Pattern, not the path as sent: exactly the calls that are relayed.
	status, header, answer, err := v.ask(r, body)
	if err != nil {
		v.config.Log.Warn("relay failed", "remote", r.RemoteAddr, "call", r.Pattern, "reason", err.Error())
		return unavailable(err, "the key service does not answer the verifier")
	}
	for _, k := range []string{"Content-Type", "Retry-After"} {
		if s := header.Get(k); s != "" {
			w.Header().Set(k, s)
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(answer) // a peer that is gone cannot be told
	return nil
}

func (v *Verifier) ask(r *http.Request, body []byte) (int, http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, v.config.ServiceURL+r.URL.Path, bytes.NewReader(body))
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
