package publish

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// victim is what a process that is to die needs; it is told by a file.
type victim struct {
	URL, CA            string
	Seed               []byte // of the account key
	Owner              string // age identity
	Input, Out, Remote string
	State              string
	At                 int   // dies at this action on the site or the key service
	Late               bool  // the input is converted, and its beginning made last
	Offset             int64 // with Late, dies at the write there instead
	After              bool  // once it has taken effect, so that only the answer is lost
}

func (v victim) input() (Input, error) {
	if v.Late {
		return convertedFile(v.Input)
	}
	return source.At(v.Input), nil
}

func (v victim) run(ctx context.Context, wrap func(Deps) Deps) (Published, error) {
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(v.Seed))
	if err != nil {
		return Published{}, err
	}
	keys, err := keyclient.New(keyclient.Options{URL: v.URL, CA: []byte(v.CA), Signer: signer})
	if err != nil {
		return Published{}, err
	}
	owner, err := age.ParseX25519Identity(v.Owner)
	if err != nil {
		return Published{}, err
	}
	in, err := v.input()
	if err != nil {
		return Published{}, err
	}
	d := wrap(Deps{FS: transfer.Local{}, Keys: keys, Signer: signer, State: v.State,
		Identities: func() ([]age.Identity, error) { return []age.Identity{owner}, nil }})
	return Run(ctx, d, Request{Input: in, Kind: manifest.KindDataset, Target: Target{
		Name: "data", SealedPath: v.Out, DirAtRest: v.Remote, Policy: keyservertest.Policy("alice"), ServiceURL: v.URL,
		Recipients: []age.Recipient{owner.Recipient()}, Readers: []string{owner.Recipient().String()},
	}})
}

const victimEnv = "SEALBATCH_TEST_VICTIM"

// TestKilledAnywhere publishes a new version of a dataset in a process that is
// killed at each of its actions, before and after it takes effect, looks at what
// that leaves, and runs it again.
func TestKilledAnywhere(t *testing.T) {
	if file := os.Getenv(victimEnv); file != "" {
		b, err := os.ReadFile(file)
		var v victim
		if err = errors.Join(err, json.Unmarshal(b, &v)); err != nil {
			t.Fatal(err)
		}
		_, err = v.run(t.Context(), func(d Deps) Deps {
			k := &dying{keys: d.Keys, v: v}
			d.FS, d.Keys = k, k
			return d
		})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	s := newKillable(t, false)
	for n := 1; ; n++ {
		killed := 0
		for _, after := range []bool{false, true} {
			if s.round(t, n, after) {
				killed++
			}
		}
		if killed == 0 {
			if n < 15 {
				t.Errorf("only %d actions were met", n-1)
			}
			break
		}
	}
	if s.wentOn == 0 || s.afresh == 0 {
		t.Errorf("went on %d times, began afresh %d times: both should have been met", s.wentOn, s.afresh)
	}
}

type killable struct {
	v              victim
	keys           *keyclient.Client
	owner          *age.X25519Identity
	content        []byte // the input's
	version        int    // of it
	wentOn, afresh int
	sent           int64 // bytes of the last run of again
}

func newKillable(t *testing.T, late bool) *killable {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	service := keyservertest.Start(t, keyservertest.Options{Accounts: map[string]ssh.PublicKey{"alice": key},
		Limits: keyserver.Limits{PerSecond: 1e6, Burst: 1e6}})
	dir := t.TempDir()
	k := &killable{keys: service.Client(t, signer), owner: owner,
		v: victim{URL: service.URL, CA: string(service.CA), Seed: priv.Seed(), Owner: owner.String(), Late: late,
			Input: filepath.Join(dir, "input"), Out: filepath.Join(dir, "d.sealed"), Remote: t.TempDir(),
			State: filepath.Join(dir, "state")}}
	k.change(t)
	k.again(t)
	return k
}

// change makes a new version of the input.
func (k *killable) change(t *testing.T) {
	t.Helper()
	k.version++
	k.content = fmt.Append(bytes.Repeat([]byte("genome "), 3000), k.version)
	if err := os.WriteFile(k.v.Input, k.content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// want returns what is to be published.
func (k *killable) want(t *testing.T) []byte {
	t.Helper()
	if !k.v.Late {
		return k.content
	}
	in, err := convertedFile(k.v.Input)
	if err != nil {
		t.Fatal(err)
	}
	return in.content
}

// round runs one victim and reports whether it was killed.
func (k *killable) round(t *testing.T, n int, after bool) bool {
	t.Helper()
	k.change(t)
	v := k.v
	v.At, v.After = n, after
	b, err := json.Marshal(v)
	file := filepath.Join(t.TempDir(), "victim")
	if err = errors.Join(err, os.WriteFile(file, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAnywhere$") // it is the victim there
	cmd.Env = append(os.Environ(), victimEnv+"="+file)
	out, err := cmd.CombinedOutput()
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	killed := status.Signaled() && status.Signal() == syscall.SIGKILL
	if err != nil && !killed {
		t.Fatalf("action %d: %v\n%s", n, err, out)
	}
	k.look(t, n, after)
	before, rerr := os.ReadFile(k.v.Out)
	k.again(t)
	now, err := os.ReadFile(k.v.Out)
	if err = errors.Join(err, rerr); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(before, now) {
		k.wentOn++
	} else {
		k.afresh++
	}
	return killed
}

// look checks what a killed process left.
func (k *killable) look(t *testing.T, n int, after bool) {
	t.Helper()
	deposited := map[string]keyapi.SecretInfo{}
	for _, s := range keyservertest.Secrets(t, k.keys) {
		deposited[s.VolumeID] = s
	}
	remote := filepath.Join(k.v.Remote, "d.sealed")
	f, err := os.Open(remote)
	if err != nil {
		t.Fatalf("action %d, %v: what was published is gone: %v", n, after, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	id, digest, err := volume.ReadDigest(f, st.Size())
	if err != nil {
		t.Fatalf("action %d, %v: something half-made has the final name: %v", n, after, err)
	}
	if deposited[id.String()].Digest != manifest.Digest(digest) {
		t.Errorf("action %d, %v: the volume under the final name has no key at the service", n, after)
	}
	b, err := os.ReadFile(remote + InfoSuffix)
	if err != nil {
		t.Fatal(err)
	}
	info, err := manifest.ParseInfo(b)
	if err != nil || deposited[info.VolumeID].Digest != info.Digest {
		t.Errorf("action %d, %v: the info file speaks of what is not deposited: %v", n, after, err)
	}
	newest := deposited[info.VolumeID].SupersededBy == ""
	if newest && info.VolumeID != id.String() {
		t.Errorf("action %d, %v: the older version is not superseded, and its volume is gone", n, after)
	}
}

// again runs the command to its end and checks what is published.
func (k *killable) again(t *testing.T) {
	t.Helper()
	site := sizing{sent: new(atomic.Int64)}
	p, err := k.v.run(t.Context(), func(d Deps) Deps { d.FS = site; return d })
	if err != nil {
		t.Fatalf("again: %v", err)
	}
	k.sent = site.sent.Load()
	b, err := os.ReadFile(p.InfoPath)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := os.ReadFile(p.InfoPath + SigSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sshid.VerifySSH(manifest.NamespaceInfo, b, sig); err != nil {
		t.Error(err)
	}
	f, err := os.Open(p.Info.PathAtRest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	key, err := volume.UnwrapKey(f, p.Info.Size, k.owner)
	if err != nil {
		t.Fatal(err)
	}
	r, err := volume.Open(f, p.Info.Size, key)
	if err != nil {
		t.Fatal(err)
	}
	into := filepath.Join(t.TempDir(), "out")
	if err := r.Extract(t.Context(), into, volume.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(into, "input")); err != nil || !bytes.Equal(got, k.want(t)) {
		t.Errorf("published is another version, %v", err)
	}
	for _, dir := range []string{k.v.Remote, filepath.Join(k.v.State, "sealed"), filepath.Dir(k.v.Out)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".partial") || strings.HasSuffix(e.Name(), ".json") {
				t.Errorf("left behind: %s", e.Name())
			}
		}
	}
}

// sizing is a site that counts what is written to it in pieces.
type sizing struct {
	transfer.Local
	sent *atomic.Int64
}

func (s sizing) Create(p string, m fs.FileMode) (transfer.WriteFile, error) {
	f, err := s.Local.Create(p, m)
	return sizingFile{f, s}, err
}

func (s sizing) Reopen(p string) (transfer.WriteFile, error) {
	f, err := s.Local.Reopen(p)
	return sizingFile{f, s}, err
}

type sizingFile struct {
	transfer.WriteFile
	s sizing
}

func (f sizingFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.WriteFile.WriteAt(b, off)
	f.s.sent.Add(int64(n))
	return n, err
}
