package keyserver

import "context"

// AttestorOf returns a server's attestor for a type of evidence.
func AttestorOf(s *Server, typ string) Attestor { return s.attestors[typ] }

// Tokens counts the tokens that a server keeps, or returns -1.
func Tokens(ctx context.Context, s *Server) int {
	n := 0
	err := s.store.View(ctx, func(r Reader) error {
		return r.Each(bucketTokens, "", func(string, []byte) error { n++; return nil })
	})
	if err != nil {
		return -1
	}
	return n
}
