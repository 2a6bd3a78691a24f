package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// BenchmarkCosts measures what each call of an attacker's costs the key service, one
// after the other, and prints the rows of the table in docs/key-service.md.
func BenchmarkCosts(b *testing.B) {
	s := startBenched(b, "rate-per-second = 100000\nburst = 100000\nmin-tier = C\n", 1)
	a := s.assault(b)
	for i := range 500 { // a page
		s.Deposit(b, sshSigner(s.accounts[0]), fmt.Sprint("page", i), manifest.KindDataset, keyservertest.Policy("mallory"))
	}
	var rows []string
	for b.Loop() {
		for _, k := range calls {
			c := a.caller(0)
			c.as(a.Accounts[0])
			n := 100
			if k.name == calls[len(calls)-1].name {
				n = 10
			}
			before := s.size(b)
			s.clearPeak(b)
			rss, cpu, start := s.memory(b, "VmRSS"), s.cpu(b), time.Now()
			for range n {
				c.as(a.Accounts[0])
				if status, err := k.make(c, b.Context()); err != nil || status == http.StatusTooManyRequests {
					b.Fatalf("%s: %d, %v", k.name, status, err)
				}
			}
			took, cpu, grown := time.Since(start), s.cpu(b)-cpu, s.size(b)
			per := func(f string) int { return (grown[f] - before[f]) / n }
			rows = append(rows, fmt.Sprintf("| %s | %s | %.1f ms | %.1f ms | %d KiB | %d | %d |",
				k.name, k.by, ms(cpu)/float64(n), ms(took)/float64(n),
				max(0, s.memory(b, "VmHWM")-rss), per("log"), per("store")))
			for _, conn := range c.slow {
				conn.Close()
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of no meaning here
	fmt.Printf("\n| call | by | processor | time | memory | log, bytes | store, bytes |\n|---|---|---|---|---|---|---|\n%s\n",
		strings.Join(rows, "\n"))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// size returns how many bytes the service's log has, and the records of its store.
func (s *benched) size(b *testing.B) map[string]int {
	b.Helper()
	out := map[string]int{}
	files, err := filepath.Glob(filepath.Join(s.dir, "data", "audit*"))
	if err != nil || len(files) == 0 {
		b.Fatalf("no audit log, %v", err)
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			b.Fatal(err)
		}
		out["log"] += int(st.Size())
	}
	// A copy, since the service has the file locked. Nobody asks for anything now.
	store, err := os.ReadFile(filepath.Join(s.dir, "data", "store.db"))
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "store.db")
	if err := os.WriteFile(path, store, 0o600); err != nil {
		b.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(k, v []byte) error {
				out["store"] += len(k) + len(v)
				return nil
			})
		})
	})
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// clearPeak has the kernel forget how much memory the service had at most.
func (s *benched) clearPeak(b *testing.B) {
	b.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.cmd.Process.Pid), []byte("5"), 0); err != nil {
		b.Fatal(err)
	}
}

// memory returns a field of the service's status, in KiB.
func (s *benched) memory(b *testing.B, field string) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	m := regexp.MustCompile(field + `:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		b.Fatalf("no %s in %s", field, status)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		b.Fatal(err)
	}
	return n
}
