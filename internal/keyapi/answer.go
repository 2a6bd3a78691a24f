package keyapi

import (
	"bytes"
	"encoding/json"
	"net/http"
)

// WriteJSON answers a request with v, for key service and verifier alike.
// Answers hold secrets or what is said once: nobody may cache them.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)              // names of six times their length
	if err := e.Encode(v); err != nil { // no answer type can fail to marshal
		status = http.StatusInternalServerError
		b.Reset()
		b.WriteString(`{"code":"internal","message":"answer cannot be encoded"}` + "\n")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(b.Bytes()) // a peer that is gone cannot be told
}
