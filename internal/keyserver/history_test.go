package keyserver_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// lines are entries in short, without times.
func lines(t *testing.T, s *site, volume string) (out []string) {
	t.Helper()
	entries, err := s.Client(t, s.alice).SecretLog(t.Context(), volume)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		job := ""
		if e.Job != nil {
			job = fmt.Sprint(e.Job.ID)
		}
		out = append(out, strings.Join([]string{e.Event, e.Account, e.User, job, e.Node, e.Attestor, e.Tier,
			strings.Join(e.Changes, "; ") + e.Reason}, "|"))
	}
	return out
}

// TestHistory: an owner reads what became of a volume, and nobody else does.
func TestHistory(t *testing.T) {
	t.Parallel()
	clk := &clock{}
	s := newSite(t, keyservertest.Options{Now: clk.now})
	p := keyservertest.Policy("alice")
	bobs := s.Deposit(t, s.bob, "image", manifest.KindImage, p)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	m, b := s.Manifest(t, nil, bobs, v)
	r := keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.bob, b), Job: s.job(7), Node: "cn1",
		Attest: s.Attest("alice", 1000, nil, nil)}
	claim := func(r keyclient.ReleaseRequest, want error) {
		t.Helper()
		if _, err := s.Client(t, nil).Release(t.Context(), r); !errors.Is(err, want) {
			t.Errorf("release: %v, want %v", err, want)
		}
	}
	claim(r, nil)
	wider := p
	wider.Users, wider.Releases = []string{"alice", "carol"}, 5
	if _, err := s.Client(t, s.alice).SetPolicy(t.Context(), v.ID, wider); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client(t, s.bob).SetPolicy(t.Context(), v.ID, wider); !errors.Is(err, keyclient.ErrNotFound) {
		t.Errorf("bob: %v", err)
	}
	claim(r, keyclient.ErrConflict) // a second claim of the same job: all nodes are served
	// By a policy of one volume: the other's owner is not told more.
	other, b := s.Manifest(t, func(m *manifest.Manifest) { m.User = "carol" }, bobs, v)
	theft := keyclient.ReleaseRequest{Manifest: other, Digest: s.Register(t, s.bob, b), Job: s.job(8), Node: "cn2",
		Attest: s.Attest("carol", 1001, nil, nil)}
	claim(theft, keyclient.ErrPolicy)
	claim(theft, keyclient.ErrPolicy) // within a minute
	clk.add(90 * time.Second)
	claim(theft, keyclient.ErrPolicy)
	s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	if _, err := s.Client(t, s.alice).Revoke(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}

	expires := p.Expires.Format(time.RFC3339)
	want := []string{
		`deposited|alice||||||clusters: +testcluster; compute_nodes: +cn[1-4]; expires: ` + expires + `; tier: C; users: +alice`,
		`policy|alice||||||releases: 5; users: +carol`,
		`superseded|alice||||||by volume `,
		`revoked|alice||||||`,
		`released|bob|alice|7|cn1|slurm|B2|`,
		`refused|bob|||||` + `|secret.policy is its owner's alone`,
		`refused|bob|alice|7|cn1|slurm|B2|keys were given to all 1 nodes of job testcluster/7 before; a further claim is refused`,
		`refused|bob|carol|8|cn2|slurm|B2|another volume of the job was refused`,
	}
	got := lines(t, s, v.ID)
	for i, w := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], w) {
			t.Errorf("entry %d is not %s:\n%s", i, w, strings.Join(got, "\n"))
		}
	}
	entries, err := s.Client(t, s.alice).SecretLog(t.Context(), v.ID)
	if err != nil || len(entries) != len(want) || entries[7].Times != 2 || entries[7].Last == nil ||
		entries[7].Last.Sub(entries[7].Time) < time.Minute {
		t.Errorf("%d entries, %v, the last %+v", len(entries), err, entries[len(entries)-1])
	}
	_, first, _ := p.Encode()
	if entries[4].Policy != first.String() {
		t.Errorf("released by %s, want %s", entries[4].Policy, first)
	}
	if _, err := s.Client(t, s.bob).SecretLog(t.Context(), v.ID); !errors.Is(err, keyclient.ErrNotFound) {
		t.Errorf("bob reads alice's: %v", err)
	}
	theirs, err := s.Client(t, s.bob).SecretLog(t.Context(), bobs.ID)
	if err != nil || !slices.ContainsFunc(theirs, func(e keyapi.LogEntry) bool {
		return e.User == "carol" && strings.Contains(e.Reason, "its policy names neither user carol")
	}) {
		t.Errorf("whose policy refused is told why: %+v, %v", theirs, err)
	}
}

// TestHistoryIsBounded: what an owner does often, and whoever is refused often, fills
// nothing; the deposit stays, and pages end.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	for i := range 80 {
		p := keyservertest.Policy(fmt.Sprint("u", i))
		if _, err := s.Client(t, s.alice).SetPolicy(t.Context(), v.ID, p); err != nil {
			t.Fatal(err)
		}
	}
	m, b := s.Manifest(t, nil, v)
	r := keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.bob, b), Job: s.job(7), Node: "cn1"}
	var wg sync.WaitGroup
	for worker := range 27 {
		wg.Go(func() {
			for i := range 10 {
				r := r
				r.Attest = s.Attest(fmt.Sprint("m", worker, "-", i), 2000, nil, nil)
				if _, err := s.Client(t, nil).Release(t.Context(), r); !errors.Is(err, keyclient.ErrPolicy) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := lines(t, s, v.ID)
	if len(got) != 64+257 || !strings.HasPrefix(got[0], "deposited|") || !strings.HasSuffix(got[1], "users: +u17 -u16") ||
		!strings.HasSuffix(got[63], "users: +u79 -u78") {
		t.Errorf("%d entries, from %q, %q to %q", len(got), got[0], got[1], got[63])
	}
	for n, after := 0, ""; n == 0 || after != ""; {
		page, err := keyserver.HistoryPage(t.Context(), s.Server, v.ID, after, 10)
		if n += len(page.Entries); err != nil || n > len(got) || len(page.Entries) == 0 {
			t.Fatalf("%d entries, %v", n, err)
		}
		after = page.Next
	}
	if err := s.Client(t, s.alice).Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := keyserver.Purge(t.Context(), s.Server); err != nil {
		t.Fatal(err)
	}
	if left, err := keyserver.Records(t.Context(), s.Server); err != nil || left["history"] != 0 {
		t.Errorf("after the volume's end: %v, %v", left, err)
	}
}
