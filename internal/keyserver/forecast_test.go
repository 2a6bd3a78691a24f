package keyserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// counting counts what is read of a job's records.
type counting struct {
	copied
	reads int
}

func (c *counting) Get(bucket, key string) ([]byte, error) {
	c.reads++
	return c.copied.Get(bucket, key)
}

// withPolicies returns a secret for each policy, and their records.
func withPolicies(t *testing.T, policies ...manifest.Policy) (*counting, []secretRecord) {
	t.Helper()
	c, secrets := &counting{copied: copied{}}, []secretRecord{}
	for i, p := range policies {
		p.Tier = manifest.TierB2
		b, digest, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		sec := secretRecord{VolumeID: fmt.Sprint(i), Policy: termsOf(p, digest)}
		c.copied[[2]string{bucketPolicies, sec.VolumeID}] = b
		secrets = append(secrets, sec)
	}
	return c, secrets
}

// TestForecastNodes: of a job's nodes all are looked at where its policies are as is usual, whatever the order; each policy
// is read once, and each host list is held once against them.
func TestForecastNodes(t *testing.T) {
	t.Parallel()
	var nodes []string
	for i := range keyapi.MaxExpectedNodes - 2 {
		nodes = append(nodes, fmt.Sprintf("cn%04d", i))
	}
	nodes = append(nodes, nodes[7], "")
	var policies []manifest.Policy
	for i := range 65 {
		policies = append(policies, manifest.Policy{Users: []string{fmt.Sprint("user", i%3)}, Nodes: []string{"cn[0000-4092]", "x[1-2]"}})
	}
	policies[64].Nodes = []string{"*"}
	g, secrets := withPolicies(t, policies...)
	f, err := newForecast(t.Context(), attest.Claims{}, nodes, g, secrets)
	if err != nil || g.reads != 4 { // three users, and any node
		t.Fatalf("%d records read, %v", g.reads, err)
	}
	for i, sec := range secrets {
		want := `its policy does not name node "cn4093"`
		if i == 64 {
			want = ""
		}
		if why, err := f.of(sec); why != want || err != nil {
			t.Errorf("secret %d: %q, %v", i, why, err)
		}
	}
	if len(f.unnamed) != 2 || len(f.known) != 4 {
		t.Errorf("%d host lists, %d policies", len(f.unnamed), len(f.known))
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	f, err = newForecast(done, attest.Claims{}, nodes, g, secrets)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.of(secrets[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("for nobody any more: %v", err)
	}
	delete(g.copied, [2]string{bucketPolicies, "0"})
	if _, err := newForecast(t.Context(), attest.Claims{}, nodes, g, secrets); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without a policy: %v", err)
	}
}

// TestForecastIsBounded: with the dearest host lists, each another, fewer nodes are looked at.
func TestForecastIsBounded(t *testing.T) {
	t.Parallel()
	wide := strings.TrimSuffix(strings.Repeat(strings.Repeat("[1-999999999999999999]", 3)+",", 20), ",")
	ones := strings.Repeat("1", 200)
	var nodes []string
	for i := range keyapi.MaxExpectedNodes {
		nodes = append(nodes, fmt.Sprintf("%s%04d", ones, i))
	}
	var policies []manifest.Policy
	for i := range 65 {
		policies = append(policies, manifest.Policy{Nodes: []string{wide, ones + "[0000-4094]", fmt.Sprint("x", i)}})
	}
	g, secrets := withPolicies(t, policies...)
	f, err := newForecast(t.Context(), attest.Claims{}, nodes, g, secrets)
	if err != nil {
		t.Fatal(err)
	}
	if f.steps*len(secrets) > maxForecastSteps {
		t.Errorf("%d steps for each of %d host lists", f.steps, len(secrets))
	}
	for _, sec := range secrets {
		if why, err := f.of(sec); why != "" || err != nil { // the node that is not named is the last
			t.Fatalf("%q, %v", why, err)
		}
	}
	hosts, _, err := policies[0].Hosts()
	if err != nil {
		t.Fatal(err)
	}
	if _, steps := hosts.Look(nodes[0]); steps*len(nodes)*len(secrets) < 100*maxForecastSteps {
		t.Errorf("a node takes %d steps: looking at all would not be dear", steps)
	}
}

// TestDearRegistrations: a registration that expects many nodes waits for its turn as one with a large body does.
func TestDearRegistrations(t *testing.T) {
	t.Parallel()
	register := route{}
	for nodes, want := range map[int]bool{0: false, 200: false, 300: true, keyapi.MaxExpectedNodes: true} {
		b, err := json.Marshal(keyapi.Manifest{Manifest: bytes.Repeat([]byte(","), 1000), Expect: &keyapi.Expect{Nodes: make([]string, nodes)}})
		if err != nil || len(b) > gate.SmallBody {
			t.Fatal(len(b), err)
		}
		if got := register.dear(b); got != want {
			t.Errorf("%d nodes: %t", nodes, got)
		}
		if (route{max: maxReleaseBody}).dear(b) {
			t.Errorf("%d elements of another call", nodes)
		}
	}
	if !(route{max: maxReleaseBody}).dear(make([]byte, gate.SmallBody+1)) {
		t.Error("a large body")
	}
}
