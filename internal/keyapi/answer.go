package keyapi

import (
	"encoding/json"
	"net/http"
)

// WriteJSON answers a request with v, for key service and verifier alike.
// Answers hold secrets or what is said once: nobody may cache them.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // no answer type can fail to marshal
		status, b = http.StatusInternalServerError, []byte(`{"code":"internal","message":"answer cannot be encoded"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // a peer that is gone cannot be told
}
