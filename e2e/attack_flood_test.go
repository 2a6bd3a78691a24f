package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Floods. The services of these worlds have small bounds (attack_defences_test.go),
// so that few requests are a flood. The flooder is on the laptop, with addresses
// that nobody else has; the honest job is on cn1.

var lastAddress atomic.Int32

// flooders are places on the laptop, each with an address of its own.
func flooders(t *testing.T, n int) []net.Dialer {
	t.Helper()
	var out []net.Dialer
	for range n {
		ip := fmt.Sprintf("10.77.0.%d", 100+lastAddress.Add(1))
		change := func(verb string) {
			ns := "sealbatch-" + os.Getenv("SEALBATCH_CLUSTER") + "-laptop"
			if b, err := exec.Command("ip", "-n", ns, "addr", verb, ip+"/24", "dev", "eth0").CombinedOutput(); err != nil {
				t.Errorf("ip addr %s %s: %v\n%s", verb, ip, err, b)
			}
		}
		change("add")
		t.Cleanup(func() { change("del") })
		out = append(out, net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}})
	}
	return out
}

// own is a service that a flood may hit: not the one that other tests share.
func (w *world) own(t *testing.T, service string) endpoint {
	t.Helper()
	if service == "key service" {
		return w.keys
	}
	if w.verifier == loginVerifier {
		w.verifier = w.verify(t, 9100+int(lastPort.Add(1)))
	}
	return w.verifier
}

// unmoved is the outcome of a flood that was bounded: kept out if alice's job
// gets its keys from both services meanwhile.
func (w *world) unmoved(t *testing.T, format string, args ...any) outcome {
	t.Helper()
	if o := w.claimsAlice(t, w.stakeOf(t, openTo("alice"), nil)); !o.gained {
		return gained("the honest job got no keys: %s", o.evidence)
	}
	return keptOut(format, args...)
}

// requests sends up to n requests from an address, until one is answered with
// 429, and returns how many others there were and its Retry-After.
func requests(t *testing.T, to endpoint, from net.Dialer, n int, path string, make func() plainRequest) (served int, retryAfter string) {
	t.Helper()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return laptop.dialFrom(ctx, &from, to.address)
		},
		TLSClientConfig: &tls.Config{RootCAs: authorities(t), ServerName: to.name, MinVersion: tls.VersionTLS13},
	}
	defer tr.CloseIdleConnections()
	for ; served < n; served++ {
		r := make()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+to.address+path, bytes.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		if r.header != nil {
			req.Header = r.header
		}
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusTooManyRequests {
			return served, res.Header.Get("Retry-After")
		}
	}
	return served, ""
}

var laptop = place{"laptop", "mallory"}

// mallory asks for what she gets anyway refused, as fast as it goes, from two addresses.
func TestAttackRequestFlood(t *testing.T) {
	t.Parallel()
	for service, path := range map[string]string{"key service": "/v1/release", "verifier": "/v1/vouch"} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			attack{own: true, without: []string{"address's rate"}, says: "429 with Retry-After: 1 after ",
				play: func(t *testing.T, w *world) outcome {
					to := w.own(t, service)
					const most = 300
					last := 0
					for _, from := range flooders(t, 2) {
						n, after := requests(t, to, from, most, path, func() plainRequest { return plainRequest{body: []byte("{}")} })
						if n == most {
							return gained("%d requests of one address were answered", n)
						}
						if after != "1" {
							return gained("429 after %d requests with Retry-After: %q", n, after)
						}
						last = n
					}
					return w.unmoved(t, "429 with Retry-After: 1 after %d requests", last)
				}}.run(t)
		})
	}
}

// mallory, who is enrolled, registers one manifest after the other, none from
// an address that has asked for much.
func TestAttackAccountFlood(t *testing.T) {
	t.Parallel()
	attack{own: true, without: []string{"account's requests"}, says: "429 with Retry-After: 1 after ",
		play: func(t *testing.T, w *world) outcome {
			var s keyapi.Service
			laptop.ask(t, w.keys, "/v1/service", nil).into(t, &s)
			const each = 60
			sum := 0
			for _, from := range flooders(t, 3) {
				n, after := requests(t, w.keys, from, each, "/v1/manifests", func() plainRequest {
					return w.sign(t, mallory, http.MethodPost, "/v1/manifests", struct{}{}, signing{service: s.ID})
				})
				if sum += n; n < each {
					return w.unmoved(t, "429 with Retry-After: %s after %d requests", after, sum)
				}
			}
			return gained("%d requests of one account were answered", sum)
		}}.run(t)
}

// mallory opens connections, and leaves each at the handshake.
func TestAttackConnectionFlood(t *testing.T) {
	t.Parallel()
	for _, service := range []string{"key service", "verifier"} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			attack{own: true, without: []string{"number of connections"}, says: "descriptors at most", play: func(t *testing.T, w *world) outcome {
				to := w.own(t, service)
				most := 0
				for range 2 { // what waits at the handshake is closed after five seconds
					for _, from := range flooders(t, 3) {
						for range 60 {
							c, err := laptop.dialFrom(t.Context(), &from, to.address)
							if err != nil {
								t.Fatal(err)
							}
							t.Cleanup(func() { c.Close() })
						}
					}
					if most = max(most, w.number(t, to, `ls "/proc/$1/fd" | wc -l`)); most > 64+50 {
						return gained("%d descriptors are open", most)
					}
				}
				return w.unmoved(t, "%d descriptors at most", most)
			}}.run(t)
		})
	}
}

// number is what a command prints about an own service, whose process is $1.
func (w *world) number(t *testing.T, to endpoint, script string) int {
	t.Helper()
	n, err := strconv.Atoi(must(t, to.name, "root", "sh", "-c", script, "sh", w.pids[to.address]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// largeOf is a request of a person's whose body is large, signed as it should be.
func (w *world) largeOf(t *testing.T, who person, size int, service string) plainRequest {
	t.Helper()
	return w.sign(t, who, http.MethodPost, "/v1/manifests", strings.Repeat("x", size-len(`""`)), signing{service: service})
}

// announce sends a request's headers, asks whether to go on and returns the first line of
// the answer, and whether the service waits for the body then.
func (w *world) announce(t *testing.T, from net.Dialer, r plainRequest) (c net.Conn, line string, goOn bool) {
	t.Helper()
	raw, err := laptop.dialFrom(t.Context(), &from, w.keys.address)
	if err != nil {
		t.Error(err)
		return nil, "", false
	}
	t.Cleanup(func() { raw.Close() })
	c = tls.Client(raw, &tls.Config{RootCAs: authorities(t), ServerName: w.keys.name})
	c.SetDeadline(time.Now().Add(25 * time.Second))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: keys\r\nContent-Length: %d\r\nExpect: 100-continue\r\n", r.method, r.path, len(r.body))
	r.header.Write(&b)
	b.WriteString("\r\n")
	if _, err := c.Write(b.Bytes()); err != nil {
		t.Error(err)
	}
	if line, err = bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Error(err)
	}
	return c, strings.TrimSpace(line), line == "HTTP/1.1 100 Continue\r\n"
}

// mallory announces large requests, signed, and sends each but for its last byte.
func TestAttackMemoryFlood(t *testing.T) {
	t.Parallel()
	without := []string{"account's large body", "memory for bodies"}
	attack{own: true, without: without, says: "1 bodies at once", play: func(t *testing.T, w *world) outcome {
		from := flooders(t, 1)[0]
		var s keyapi.Service
		laptop.ask(t, w.keys, "/v1/service", nil).into(t, &s)
		r := w.largeOf(t, mallory, 4_000_000, s.ID)
		var allowed atomic.Int32
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				c, line, goOn := w.announce(t, from, r)
				switch {
				case goOn:
					allowed.Add(1)
					if _, err := c.Write(r.body[1:]); err != nil {
						t.Error(err)
					}
				case line != "HTTP/1.1 429 Too Many Requests":
					t.Errorf("answered %q", line)
				}
			})
		}
		wg.Wait()
		kib := w.number(t, w.keys, `awk '/VmHWM/ {print $2}' "/proc/$1/status"`)
		if kib > 110_000 {
			return gained("%d bodies at once: %d KiB", allowed.Load(), kib)
		}
		return w.unmoved(t, "%d bodies at once: %d KiB at most", allowed.Load(), kib)
	}}.run(t)
}

// holdMemory announces large requests of a person's, or of nobody's, from several addresses,
// sends nothing of them, and returns how many are waited for.
func (w *world) holdMemory(t *testing.T, who person) (held int) {
	t.Helper()
	var s keyapi.Service
	laptop.ask(t, w.keys, "/v1/service", nil).into(t, &s)
	r := plainRequest{method: http.MethodPost, path: "/v1/manifests", body: make([]byte, keyapi.MaxBody)}
	refused := "HTTP/1.1 401 Unauthorized"
	if who != "" {
		r = w.largeOf(t, who, keyapi.MaxBody, s.ID)
		refused = "HTTP/1.1 429 Too Many Requests"
	}
	for _, from := range flooders(t, 5) {
		for range 4 {
			switch _, line, goOn := w.announce(t, from, r); {
			case goOn:
				held++
			case line != refused && held == 0:
				t.Errorf("answered %q", line)
			}
		}
	}
	return held
}

// Somebody announces large requests from several addresses and sends nothing of them,
// so that alice cannot register a job that is large: a stranger, or mallory with an account.
func TestAttackMemoryHeld(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		who           person
		without, says string
	}{
		"by a stranger": {"", "large bodies' signers", "0 large requests are waited for"},
		"by an account": {mallory, "account's large body", "1 large requests are waited for"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			attack{own: true, without: []string{tc.without}, says: tc.says, play: func(t *testing.T, w *world) outcome {
				image := w.deposit(t, alice, rand.Text(), manifest.KindImage, openTo("alice"))
				s := w.manifest(t, alice, func(m *manifest.Manifest) { m.Recipients = []string{strings.Repeat("x", 100_000)} }, image)
				r := w.sign(t, alice, http.MethodPost, "/v1/manifests", s.registration(t, keyOf(t, alice)), signing{})
				held := w.holdMemory(t, tc.who)
				if a := w.send(t, r); a.status != http.StatusOK {
					return gained("%d large requests are waited for, and alice registers no job: %s", held, a.refusal(t).evidence)
				}
				return keptOut("%d large requests are waited for", held)
			}}.run(t)
		})
	}
}

// The same against nodes, whose requests are small.
func TestAttackMemoryHeldFromNodes(t *testing.T) {
	t.Parallel()
	without := []string{"small bodies apart", "account's large body"}
	attack{own: true, without: without, says: "1 large requests are waited for", play: func(t *testing.T, w *world) outcome {
		s := w.stakeOf(t, openTo("alice"), nil)
		node := w.claimant(t, aliceOnCN1, s, sharedJob(t, alice, "-w", "cn1"), "cn1")
		held := w.holdMemory(t, mallory)
		if o := node.claims(t, s, node.credential(t)); !o.gained {
			return gained("%d large requests are waited for, and the honest job gets no keys: %s", held, o.evidence)
		}
		return keptOut("%d large requests are waited for", held)
	}}.run(t)
}
