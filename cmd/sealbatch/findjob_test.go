package main

import (
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
)

// TestForJobs: a signer of info files submits no jobs of the user's, unless the line says so or the key is the user's own.
func TestForJobs(t *testing.T) {
	t.Parallel()
	mine, bobs := keyservertest.NewSigner(t).PublicKey(), keyservertest.NewSigner(t).PublicKey()
	own := []sshid.AllowedSigner{{Key: mine}}
	for name, c := range map[string]struct {
		line sshid.AllowedSigner
		want bool
	}{
		"another's":          {sshid.AllowedSigner{Key: bobs}, false},
		"one's own":          {sshid.AllowedSigner{Key: mine}, true},
		"for info files":     {sshid.AllowedSigner{Key: mine, Namespaces: []string{manifest.NamespaceInfo}}, false},
		"for jobs":           {sshid.AllowedSigner{Key: bobs, Namespaces: []string{manifest.NamespaceManifest}}, true},
		"for everything":     {sshid.AllowedSigner{Key: bobs, Namespaces: []string{"sealbatch-*"}}, true},
		"an authority":       {sshid.AllowedSigner{Key: bobs, CertAuthority: true}, false},
		"an authority's own": {sshid.AllowedSigner{Key: mine, CertAuthority: true}, false},
		"an authority for jobs": {sshid.AllowedSigner{Key: bobs, CertAuthority: true,
			Namespaces: []string{manifest.NamespaceManifest}}, true},
	} {
		given := []sshid.AllowedSigner{c.line}
		if got := forJobs(given, own)[0]; got.Allows(manifest.NamespaceManifest, time.Now()) != c.want ||
			!given[0].Allows(manifest.NamespaceInfo, time.Now()) && len(c.line.Namespaces) == 0 {
			t.Errorf("%s: %+v", name, got)
		}
		if len(given[0].Namespaces) != len(c.line.Namespaces) {
			t.Errorf("%s: the lines for info files are changed, too", name)
		}
	}
}
