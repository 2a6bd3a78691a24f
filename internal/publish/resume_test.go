package publish

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// withState lets s go on where an earlier run stopped.
func (s *setting) withState(t *testing.T) {
	t.Helper()
	s.d.State = t.TempDir()
	s.d.Identities = func() ([]age.Identity, error) { return []age.Identity{s.owner}, nil }
}

// awayKeys is a key service that can be reached until the upload is done.
type awayKeys struct{ *keyclient.Client }

func (awayKeys) PutSecret(context.Context, string, keyapi.Secret) (keyapi.SecretInfo, error) {
	return keyapi.SecretInfo{}, keyclient.ErrUnavailable
}

// TestKeyServiceGone between upload and deposit: the same command goes on with the same ciphertext.
func TestKeyServiceGone(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	keys := s.service.Client(t, s.d.Signer)
	s.d.Keys = awayKeys{keys}
	_, err := Run(t.Context(), s.d, s.r)
	if !errors.Is(err, keyclient.ErrUnavailable) ||
		!strings.Contains(fault.Hint(err), "the sealed file has arrived; when the key service answers, the same command goes on") {
		t.Errorf("%v; %s", err, fault.Hint(err))
	}
	sealed, err := os.ReadFile(s.r.SealedPath)
	if err != nil {
		t.Fatal(err)
	}
	s.d.Keys = keys
	p, err := Run(t.Context(), s.d, s.r)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(p.Info.PathAtRest); err != nil || !bytes.Equal(now, sealed) {
		t.Errorf("it was sealed again, or altered: %v", err)
	}
	s.checkVolume(t, p.Info)
}

// betweenRuns are what can happen between two runs, and whether the second resumes.
var betweenRuns = map[string]struct {
	change func(s *setting) error
	goesOn bool
}{
	"nothing changed":  {func(*setting) error { return nil }, true},
	"another policy":   {func(s *setting) error { s.r.Policy.Releases = 7; return nil }, true},
	"input changed":    {func(s *setting) error { return os.WriteFile(s.file, []byte("new"), 0o600) }, false},
	"other recipients": {func(s *setting) error { s.r.Readers = []string{"age1other"}; return nil }, false},
	"another file in its place": {func(s *setting) error {
		b, err := os.ReadFile(s.r.SealedPath)
		s.strange = true
		return errors.Join(err, os.WriteFile(s.r.SealedPath, make([]byte, len(b)), 0o600))
	}, false},
	"another volume in its place": {func(s *setting) error {
		s.strange = true
		other, err := volume.SealFile(context.Background(), s.r.SealedPath, s.r.Input,
			volume.SealOptions{Recipients: s.r.Recipients, Replace: true})
		other.Key.Wipe()
		return err
	}, false},
	"sealed file removed": {func(s *setting) error { return os.Remove(s.r.SealedPath) }, false},
	"no identity":         {func(s *setting) error { s.d.Identities = nil; return nil }, false},
	"another's identity": {func(s *setting) error {
		id, err := age.GenerateX25519Identity()
		s.d.Identities = func() ([]age.Identity, error) { return []age.Identity{id}, nil }
		return err
	}, false},
	"damaged checkpoint": {func(s *setting) error {
		all, err := filepath.Glob(s.d.State + "/sealed/*.json")
		if err != nil || len(all) != 1 {
			return errors.Join(err, errors.New("no checkpoint"))
		}
		return os.Truncate(all[0], 30)
	}, false},
}

// TestGoesOnOnlyWithItsOwn: whatever does not fit the checkpoint of the earlier run is sealed afresh.
func TestGoesOnOnlyWithItsOwn(t *testing.T) {
	t.Parallel()
	for name, c := range betweenRuns {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetting(t)
			s.withState(t)
			s.r.Readers = []string{"age1me"}
			keys := s.service.Client(t, s.d.Signer)
			s.d.Keys = awayKeys{keys}
			if _, err := Run(t.Context(), s.d, s.r); err == nil {
				t.Fatal("no error")
			}
			before, err := os.ReadFile(s.r.SealedPath)
			if err != nil {
				t.Fatal(err)
			}
			s.d.Keys = keys
			if err := c.change(s); err != nil {
				t.Fatal(err)
			}
			if s.strange {
				s.refusesToReplace(t)
				s.r.Force = true
			}
			p, err := Run(t.Context(), s.d, s.r)
			if err != nil {
				t.Fatal(err)
			}
			if now, err := os.ReadFile(p.Info.PathAtRest); err != nil || bytes.Equal(now, before) != c.goesOn {
				t.Errorf("the same ciphertext: %v, %v", bytes.Equal(now, before), err)
			}
			if name != "input changed" {
				s.checkVolume(t, p.Info)
			}
			left, _ := filepath.Glob(s.r.DirAtRest + "/*.partial")
			if more, _ := filepath.Glob(s.d.State + "/sealed/*.json"); len(left)+len(more) > 0 && name != "damaged checkpoint" {
				t.Errorf("left behind: %q %q", left, more)
			}
		})
	}
}

// TestTwoAtOnce: the second run on one sealed file waits for nobody and breaks nothing.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	p := s.publishing(t)
	unlock, err := p.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, errBusy) || fault.Hint(err) == "" {
		t.Errorf("%v; %s", err, fault.Hint(err))
	}
	s.nothingPublished(t)
	unlock()
	if _, err := Run(t.Context(), s.d, s.r); err != nil {
		t.Error(err)
	}
}

// TestInterrupted ends at each stage with the code of Ctrl-C and the next step.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for pattern, hint := range map[string]string{"*.partial": "", "*.info.yaml.????????????.partial": hintGoOn} {
		s := newSetting(t) // the upload begins while the input is sealed, which may be done by then or not
		s.withState(t)
		ctx, cancel := context.WithCancel(t.Context())
		s.d.FS = cancelling{pattern: pattern, cancel: cancel}
		_, err := Run(ctx, s.d, s.r)
		if fault.ClassOf(err) != fault.Interrupted || !strings.Contains(fault.Hint(err), cmp.Or(hint, "the same command")) ||
			!errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v; %s", pattern, err, fault.Hint(err))
		}
		if _, err := Run(t.Context(), s.d, s.r); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
	s := newSetting(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, s.d, s.r); fault.ClassOf(err) != fault.Interrupted || fault.Hint(err) != hintAfresh {
		t.Errorf("at once: %v; %s", err, fault.Hint(err))
	}
	s.nothingPublished(t)
}

type cancelling struct {
	transfer.Local
	pattern string
	cancel  func()
}

func (c cancelling) Create(p string, m fs.FileMode) (transfer.WriteFile, error) {
	if ok, err := filepath.Match(c.pattern, filepath.Base(p)); ok || err != nil {
		c.cancel()
	}
	return c.Local.Create(p, m)
}

// refusesToReplace: a file that was not sealed there for publishing is somebody's own.
func (s *setting) refusesToReplace(t *testing.T) {
	t.Helper()
	own, err := os.ReadFile(s.r.SealedPath)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, fs.ErrExist) || !strings.Contains(fault.Hint(err), "--force") {
		t.Errorf("over a file: %v; %s", err, fault.Hint(err))
	}
	if now, err := os.ReadFile(s.r.SealedPath); err != nil || !bytes.Equal(now, own) {
		t.Errorf("it was changed; %v", err)
	}
}

// What is remembered of a sealed file is not believed where others can write it:
// the data are sealed anew.
func TestCheckpointOfOthers(t *testing.T) {
	t.Parallel()
	for mode, again := range map[os.FileMode]bool{0o770: true, 0o707: true, 0o755: false} {
		s := newSetting(t)
		s.withState(t)
		keys := s.service.Client(t, s.d.Signer)
		s.d.Keys = awayKeys{keys}
		if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, keyclient.ErrUnavailable) {
			t.Fatal(err)
		}
		sealed, err := os.ReadFile(s.r.SealedPath)
		if err != nil {
			t.Fatal(err)
		}
		s.d.Keys = keys
		if err := os.Chmod(s.d.State, mode); err != nil {
			t.Fatal(err)
		}
		p, err := Run(t.Context(), s.d, s.r)
		if errors.Is(err, fs.ErrExist) != again {
			t.Errorf("mode %o: %v", mode, err)
		}
		if again { // nor is it believed that the sealed file was made here
			s.r.Force = true
			p, err = Run(t.Context(), s.d, s.r)
		}
		if err != nil {
			t.Fatal(err)
		}
		if now, err := os.ReadFile(p.Info.PathAtRest); err != nil || bytes.Equal(now, sealed) == again {
			t.Errorf("mode %o: sealed again: %v; want %v (%v)", mode, !bytes.Equal(now, sealed), again, err)
		}
	}
}
