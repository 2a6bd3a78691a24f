package keyserver

import (
	"context"

	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/token"
)

// AttestorOf returns a server's attestor for a type of evidence.
func AttestorOf(s *Server, typ string) attest.Attestor { return s.attestors[typ] }

// Purge removes outdated records, as the service does at intervals.
func Purge(ctx context.Context, s *Server) (int, error) { return s.purge(ctx) }

// Records counts a server's records by bucket; audit-head and identity aside.
func Records(ctx context.Context, s *Server) (map[string]int, error) {
	out := map[string]int{}
	err := s.store.View(ctx, func(r store.Reader) error {
		for _, b := range []string{token.Bucket, attest.SingleUses, bucketManifests, bucketPrivate, bucketReleases, bucketRepeats,
			bucketSecrets} {
			if err := r.Each(b, "", func(string, []byte) error { out[b]++; return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}
