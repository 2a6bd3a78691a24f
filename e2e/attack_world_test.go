package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// world is what an attack meets: the real key service and verifier, or others
// in place of those that lack a defence. MUNGE, Slurm and the accounts are the
// same everywhere.
type world struct {
	off            []string // the missing defences
	keys, verifier endpoint
	programs       string            // directory on every host
	ahead          string            // file on keys that puts its clock forward; "" for the real one
	pids           map[string]string // of own services, by address
}

var lastPort atomic.Int32

// newWorld returns the real services, except those that lack a defence of off.
func newWorld(t *testing.T, own bool, off ...string) *world {
	t.Helper()
	w := &world{off: off, pids: map[string]string{}, keys: keyService, verifier: loginVerifier, programs: "/opt/sealbatch/bin"}
	if len(off) > 0 || own {
		w.programs = weakPrograms(t)
	}
	port := 9100 + int(lastPort.Add(1))
	if own || w.lacks("internal/keyserver", "internal/manifest", "internal/sshid/sshsig", "internal/gate") {
		w.keys = w.serve(t, port)
	}
	if w.lacks("internal/verifier", "slurm/jobinfo", "internal/gate") {
		w.verifier = w.verify(t, port)
	}
	return w
}

// lacks reports whether a missing defence stands in one of these sources.
func (w *world) lacks(sources ...string) bool {
	return slices.ContainsFunc(w.off, func(name string) bool {
		return slices.ContainsFunc(defences[name], func(d weakness) bool {
			return slices.ContainsFunc(sources, func(s string) bool { return strings.HasPrefix(d.file, s) })
		})
	})
}

func (w *world) without(name string) bool { return slices.Contains(w.off, name) }

// serve starts a key service with a state of its own, and the real one's
// certificate, accounts and verifier. A second cluster is enrolled there, whose
// verifier mallory runs.
func (w *world) serve(t *testing.T, port int) endpoint {
	t.Helper()
	dir := fmt.Sprintf("/etc/world-%d", port)
	w.ahead = dir + "/ahead"
	pid := must(t, "keys", "root", "sh", "-c", `set -e; real=/etc/sealbatch
		"$1/sealbatch" serve --init "$2" --host keys --listen "0.0.0.0:$3" >/dev/null 2>&1
		rm "$2"/*.crt; for f in tls.crt tls.key accounts verifier-ca.crt; do cp "$real/$f" "$2/$f"; done
		sed -n '/^\[limits/,$p' "$real/server.conf" >>"$2/server.conf"; echo 0 >"$2/ahead"
		printf '\n[cluster elsewhere]\nverifier-url = https://elsewhere:8444\nverifier-ca = verifier-ca.crt\n' >>"$2/server.conf"
		printf 'verifier-key = %s\nmunge-user = slurm\n' "$6" >>"$2/server.conf"
		SEALBATCH_OFF="$4" SEALBATCH_AHEAD="$5" "$1/sealbatch" serve --config "$2/server.conf" </dev/null >"$2/log" 2>&1 & echo $!`,
		"sh", w.programs, dir, strconv.Itoa(port), strings.Join(w.off, ","), w.ahead,
		base64.StdEncoding.EncodeToString(elsewhere.Public().(ed25519.PublicKey)))
	return w.started(t, "keys", "root", pid, dir, port)
}

// verify starts another verifier with the real one's keys and configuration.
func (w *world) verify(t *testing.T, port int) endpoint {
	t.Helper()
	dir := fmt.Sprintf("/var/log/slurm/world-%d", port)
	pid := must(t, "login", "slurm", "sh", "-c", `set -e; cp -r /etc/sealbatch "$2"
		sed -i "s/^listen = .*/listen = 0.0.0.0:$3/" "$2/verifier.conf"
		SEALBATCH_OFF="$4" "$1/sealbatch" verifier --config "$2/verifier.conf" </dev/null >"$2/log" 2>&1 & echo $!`,
		"sh", w.programs, dir, strconv.Itoa(port), strings.Join(w.off, ","))
	return w.started(t, "login", "slurm", pid, dir, port)
}

// started waits until a service answers.
func (w *world) started(t *testing.T, host, user, pid, dir string, port int) endpoint {
	t.Helper()
	to := endpoint{fmt.Sprintf("%s:%d", host, port), host}
	w.pids[to.address] = pid
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("without %q: %s", w.off, run(context.Background(), host, user, nil, "tail", "-n", "40", dir+"/log").out)
		}
		run(context.Background(), host, user, nil, "sh", "-c", "kill "+pid+"; rm -rf "+dir+" "+dir+"-master "+dir+"-offline")
	})
	eventually(t, 30*time.Second, "a service without "+strings.Join(w.off, ", "), func() bool {
		conn, err := place{"laptop", "alice"}.dial(t.Context(), to.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return to
}

// elsewhere is the key of the second cluster's verifier.
var elsewhere = ed25519.NewKeyFromSeed([]byte("the verifier that mallory runs.."))

// forward puts the world's clock forward.
func (w *world) forward(t *testing.T, by time.Duration) {
	t.Helper()
	write(t, "keys", "root", w.ahead, strconv.Itoa(int(by/time.Second)))
}

var weakOnce struct {
	sync.Mutex
	dir string
}

// weakPrograms builds the programs in which every defence can be missing, once,
// and puts them on the hosts.
func weakPrograms(t *testing.T) string {
	t.Helper()
	weakOnce.Lock()
	defer weakOnce.Unlock()
	if weakOnce.dir == "" {
		bin := weakened(t, allDefences()...)
		for _, h := range []string{"laptop", "login", "keys"} {
			weakOnce.dir = installed(t, h, bin)
		}
	}
	return weakOnce.dir
}

var keys sync.Map // person's ssh.Signer

// keyOf is a person's SSH key.
func keyOf(t *testing.T, p person) ssh.Signer {
	t.Helper()
	if k, ok := keys.Load(p); ok {
		return k.(ssh.Signer)
	}
	b, err := os.ReadFile(onDisk(t, "laptop", "/home/"+string(p)+"/.ssh/id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.ParsePrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	keys.Store(p, k)
	return k
}

// signing is how a request is signed; the zero value is as it should be.
type signing struct {
	namespace, service, path string // instead of what is right
	at                       time.Time
	forge                    ssh.Signer // signs in the name of who should
}

// sign makes a request of a person's, signed.
func (w *world) sign(t *testing.T, who person, method, path string, body any, how signing) plainRequest {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	if how.namespace == "" {
		how.namespace = keyapi.Namespace
	}
	if how.service == "" {
		var s keyapi.Service
		place{"laptop", string(who)}.ask(t, w.keys, "/v1/service", nil).into(t, &s)
		how.service = s.ID
	}
	if how.path == "" {
		how.path = path
	}
	if how.at.IsZero() {
		how.at = time.Now()
	}
	// What a signature does not cover, clients do not sign either.
	if w.without("signed path") {
		how.path = ""
	}
	if w.without("signed service") {
		how.service = ""
	}
	n := make([]byte, 16)
	rand.Read(n) // never fails
	nonce := hex.EncodeToString(n)
	msg := keyapi.SigningInput(how.service, method, how.path, manifest.DigestOf(b), how.at.Unix(), nonce)
	key := keyOf(t, who)
	hand := key
	if how.forge != nil {
		hand = how.forge
	}
	sig, err := sshsig.Sign(bytes.NewReader(msg), hand, sshsig.HashSHA512, how.namespace)
	if err != nil {
		t.Fatal(err)
	}
	sig.PublicKey = key.PublicKey()
	h := http.Header{}
	h.Set(keyapi.HeaderSignature, base64.StdEncoding.EncodeToString(sig.Marshal()))
	h.Set(keyapi.HeaderTime, strconv.FormatInt(how.at.Unix(), 10))
	h.Set(keyapi.HeaderNonce, nonce)
	h.Set(keyapi.HeaderDigest, keyapi.ContentDigest(manifest.DigestOf(b)))
	return plainRequest{method, path, b, h}
}

// send makes a request from the laptop.
func (w *world) send(t *testing.T, r plainRequest) answer {
	t.Helper()
	return place{"laptop", "root"}.send(t, w.keys, r)
}

// call makes a signed request.
func (w *world) call(t *testing.T, who person, method, path string, body any) answer {
	t.Helper()
	return w.send(t, w.sign(t, who, method, path, body, signing{}))
}

// stake is what an attack is after: the keys of an image and a dataset, to be
// had for a manifest.
type stake struct {
	volumes []keyservertest.Volume
	bytes   []byte // the manifest
	digest  string
}

// openTo is a policy for everybody of names, on every node, at tier B2.
func openTo(names ...string) manifest.Policy {
	return manifest.Policy{Users: names, Nodes: []string{"*"}, Clusters: []string{"testcluster"}, Tier: manifest.TierB2,
		Expires: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
}

// deposit gives the key service the key of a volume of the owner's.
func (w *world) deposit(t *testing.T, owner person, name string, kind manifest.Kind, p manifest.Policy) keyservertest.Volume {
	t.Helper()
	v := keyservertest.NewVolume(t, name, kind, p)
	var info keyapi.SecretInfo
	w.call(t, owner, http.MethodPut, "/v1/secrets/"+v.ID, v.Secret).into(t, &info)
	return v
}

// stakeOf deposits an image and a dataset of alice's under a policy and
// registers a job of alice's with them. change may alter its manifest.
func (w *world) stakeOf(t *testing.T, p manifest.Policy, change func(*manifest.Manifest)) stake {
	t.Helper()
	image := w.deposit(t, alice, rand.Text(), manifest.KindImage, p)
	data := w.deposit(t, alice, rand.Text(), manifest.KindDataset, p)
	return w.register(t, alice, change, image, data)
}

// register registers a manifest for a job of the submitter's at tier B2 on one node.
func (w *world) register(t *testing.T, who person, change func(*manifest.Manifest), volumes ...keyservertest.Volume) stake {
	t.Helper()
	s := w.manifest(t, who, change, volumes...)
	var info keyapi.ManifestInfo
	w.call(t, who, http.MethodPost, "/v1/manifests", s.registration(t, keyOf(t, who))).into(t, &info)
	return s
}

// manifest makes up a manifest.
func (w *world) manifest(t *testing.T, who person, change func(*manifest.Manifest), volumes ...keyservertest.Volume) stake {
	t.Helper()
	var info keyapi.Service
	place{"laptop", string(who)}.ask(t, w.keys, "/v1/service", nil).into(t, &info)
	key, err := manifest.DecodeKey(info.StatementKey)
	if err != nil {
		t.Fatal(err)
	}
	service := keyservertest.Service{URL: "https://" + w.keys.address, ID: info.ID, CA: []byte("made up"), StatementKey: key}
	_, b := service.Manifest(t, func(m *manifest.Manifest) {
		m.Tier, m.User = manifest.TierB2, string(who)
		if change != nil {
			change(m)
		}
	}, volumes...)
	return stake{volumes, b, manifest.DigestOf(b).String()}
}

func (s stake) registration(t *testing.T, signer ssh.Signer) keyapi.Manifest {
	t.Helper()
	return keyapi.Manifest{Manifest: s.bytes, Private: keyservertest.PrivateOf(t, s.bytes), Uses: 1,
		Signature: string(keyservertest.Sign(t, signer, manifest.NamespaceManifest, s.bytes))}
}

// claimant claims a stake for a job.
func (w *world) claimant(t *testing.T, at place, s stake, job uint32, node string) *claimant {
	t.Helper()
	return claimantAt(t, w.keys, w.verifier, at, s.digest, job, node)
}

var shared struct {
	sync.Mutex
	jobs map[string]uint32
}

// sharedJob is a job that does nothing, the same for every attack that leaves
// it running. The cluster's end is its end.
func sharedJob(t *testing.T, who person, flags ...string) uint32 {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	name := fmt.Sprint(who, flags)
	if id, ok := shared.jobs[name]; ok {
		return id
	}
	argv := append([]string{"sbatch", "--parsable", "-t", "50", "-o", "/dev/null"}, flags...)
	id, err := strconv.ParseUint(must(t, "login", string(who), append(argv, "--wrap", "exec sleep 3000")...), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	if shared.jobs == nil {
		shared.jobs = map[string]uint32{}
	}
	shared.jobs[name] = reach(t, uint32(id), "RUNNING")
	return shared.jobs[name]
}
