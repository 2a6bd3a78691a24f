package publish

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// setting is a key service with an account, a site that is this machine, and
// a request that can be met.
type setting struct {
	service *keyservertest.Service
	file    string // the input
	owner   *age.X25519Identity
	d       Deps
	r       Request
	strange bool // what has the sealed file's name was not sealed there for publishing
}

func newSetting(t *testing.T) *setting {
	t.Helper()
	alice := keyservertest.NewSigner(t)
	s := &setting{service: keyservertest.Start(t, keyservertest.Options{Accounts: map[string]ssh.PublicKey{"alice": alice.PublicKey()}})}
	var err error
	if s.owner, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	s.file = filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(s.file, bytes.Repeat([]byte("genome"), 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	s.d = Deps{FS: transfer.Local{}, Keys: s.service.Client(t, alice), Signer: alice}
	s.r = Request{
		Input: source.Input{Paths: []string{s.file}, FileName: "renamed"}, Kind: manifest.KindDataset,
		Target: Target{
			Name: "data", SealedPath: filepath.Join(t.TempDir(), "d.sealed"), DirAtRest: t.TempDir(),
			Policy: keyservertest.Policy("alice"), Recipients: []age.Recipient{s.owner.Recipient()}, ServiceURL: s.service.URL,
		},
	}
	return s
}

// publishing is s's request as Run takes it up, once the input was scanned.
func (s *setting) publishing(t *testing.T) *publishing {
	t.Helper()
	input, err := scan(t.Context(), s.r.Input)
	if err != nil {
		t.Fatal(err)
	}
	return &publishing{Deps: s.d, r: s.r, input: input}
}

func TestRun(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	p, err := Run(t.Context(), s.d, s.r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(p.InfoPath)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := os.ReadFile(p.InfoPath + SigSuffix)
	if err != nil {
		t.Fatal(err)
	}
	k, err := sshid.VerifySSH(manifest.NamespaceInfo, b, sig)
	if err != nil || !bytes.Equal(k.Marshal(), s.d.Signer.PublicKey().Marshal()) {
		t.Errorf("signature: %v", err)
	}
	info, err := manifest.ParseInfo(b)
	if err != nil || info.Name != "data" || info.PathAtRest != filepath.Join(s.r.DirAtRest, "d.sealed") || info.Service != s.service.URL {
		t.Errorf("info file: %+v, %v", info, err)
	}
	s.checkVolume(t, info)
	all := keyservertest.Secrets(t, s.service.Client(t, s.d.Signer))
	if len(all) != 1 || all[0].VolumeID != info.VolumeID || all[0].Digest != info.Digest || all[0].Size != info.Size {
		t.Errorf("deposited: %+v", all)
	}
}

// checkVolume opens what lies on the site and compares it with what was signed.
func (s *setting) checkVolume(t *testing.T, info manifest.Info) {
	t.Helper()
	f, err := os.Open(info.PathAtRest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	key, err := volume.UnwrapKey(f, info.Size, s.owner)
	if err != nil {
		t.Fatal(err)
	}
	r, err := volume.Open(f, info.Size, key)
	if err != nil {
		t.Fatal(err)
	}
	if manifest.Digest(r.Digest()) != info.Digest || r.ID().String() != info.VolumeID {
		t.Error("the volume on the site is not the signed one")
	}
	sum, err := volume.ParseDigest(info.Checksum)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Verify(t.Context(), volume.VerifyOptions{Checksum: sum}); err != nil {
		t.Errorf("verify: %v", err)
	}
	n, ok := r.Lookup(0, "renamed")
	if !ok || r.Attr(n).Size != 30_000 || len(r.Dirents(0)) != 1 {
		t.Errorf("it holds %+v", r.Dirents(0))
	}
}

var errBroken = errors.New("connection lost")

// broken is a site on which nothing with a certain ending can be written.
type broken struct {
	transfer.Local
	suffix string
}

func (b broken) Create(path string, perm fs.FileMode) (transfer.WriteFile, error) {
	if ok, err := filepath.Match("*"+b.suffix, filepath.Base(path)); ok || err != nil {
		return nil, errBroken
	}
	return b.Local.Create(path, perm)
}

// TestOrder breaks off at each upload: an info file is there only when all that
// it speaks of is, and nothing half-made has a final name.
func TestOrder(t *testing.T) {
	t.Parallel()
	for suffix, want := range map[string]struct {
		secrets int
		files   []string
	}{
		"d.sealed.????????????.partial":               {0, nil},
		"d.sealed.info.yaml.sig.????????????.partial": {1, []string{"d.sealed"}},
		"d.sealed.info.yaml.????????????.partial":     {1, []string{"d.sealed", "d.sealed.info.yaml.sig"}},
	} {
		t.Run(suffix, func(t *testing.T) {
			t.Parallel()
			s := newSetting(t)
			s.d.FS = broken{suffix: suffix}
			if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, errBroken) {
				t.Errorf("Run: %v", err)
			}
			entries, err := os.ReadDir(s.r.DirAtRest)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.Name())
			}
			if strings.Join(got, " ") != strings.Join(want.files, " ") {
				t.Errorf("on the site: %q, want %q", got, want.files)
			}
			if all := keyservertest.Secrets(t, s.service.Client(t, s.d.Signer)); len(all) != want.secrets {
				t.Errorf("deposited: %+v", all)
			}
		})
	}
}

// TestRefusedEarly: nothing is sealed, shipped or deposited.
func TestRefusedEarly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		want   string
		code   fault.Class
		change func(t *testing.T, s *setting)
	}{
		"name":          {"not a file name", fault.Usage, func(_ *testing.T, s *setting) { s.r.Name = "a/b" }},
		"relative path": {"clean absolute path", fault.Usage, func(_ *testing.T, s *setting) { s.r.DirAtRest = "scratch" }},
		"no policy":     {"policy", fault.Usage, func(_ *testing.T, s *setting) { s.r.Policy = manifest.Policy{} }},
		"no directory":  {"directory at rest", fault.Other, func(_ *testing.T, s *setting) { s.r.DirAtRest += "/nowhere" }},
		"not enrolled": {"key service", fault.Key, func(t *testing.T, s *setting) {
			s.d.Keys = s.service.Client(t, keyservertest.NewSigner(t))
		}},
		"open directory": {"can be changed by anyone", fault.SSH, func(t *testing.T, s *setting) {
			if err := os.Chmod(s.r.DirAtRest, 0o777); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetting(t)
			keys := s.service.Client(t, s.d.Signer)
			c.change(t, s)
			_, err := Run(t.Context(), s.d, s.r)
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != c.code {
				t.Errorf("Run: %v (class %s)", err, fault.ClassOf(err))
			}
			if missing := errors.Is(err, fs.ErrNotExist); missing != strings.Contains(fault.Hint(err), "mkdir -p "+s.r.DirAtRest) {
				t.Errorf("hint: %s", fault.Hint(err))
			}
			if _, err := os.Lstat(s.r.SealedPath); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("sealed all the same: %v", err)
			}
			if all := keyservertest.Secrets(t, keys); len(all) > 0 {
				t.Errorf("deposited: %+v", all)
			}
		})
	}
}
