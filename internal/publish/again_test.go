package publish

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// What can happen between two runs of one command.
type ending int

const (
	there    ending = iota // recognised
	shipped                // the same volume is shipped again
	newer                  // a new version
	refusing               // an error
)

type between struct {
	change func(t *testing.T, s *setting, p Published) error
	want   ending
	says   string // in the log, or in the error and its hint
}

func (s *setting) policySet(t *testing.T, p Published, change func(*manifest.Policy)) error {
	q := p.Info.Policy
	change(&q)
	_, err := s.service.Client(t, s.d.Signer).SetPolicy(t.Context(), p.Info.VolumeID, q)
	return err
}

// betweenPublished are what concerns the site and the input.
var betweenPublished = map[string]between{
	"nothing":             {func(*testing.T, *setting, Published) error { return nil }, there, ""},
	"sealed file removed": {func(_ *testing.T, s *setting, _ Published) error { return os.Remove(s.r.SealedPath) }, there, ""},
	"info file removed": {func(_ *testing.T, _ *setting, p Published) error { return os.Remove(p.InfoPath) },
		there, "writing the info file"},
	"signature removed": {func(_ *testing.T, _ *setting, p Published) error { return os.Remove(p.InfoPath + SigSuffix) },
		there, "writing the info file"},
	"signature of another": {func(_ *testing.T, _ *setting, p Published) error {
		return os.WriteFile(p.InfoPath+SigSuffix, []byte("x"), 0o600)
	}, there, "writing the info file"},
	"purged from the site": {func(_ *testing.T, _ *setting, p Published) error { return os.Remove(p.Info.PathAtRest) },
		shipped, "does not lie on the site any more"},
	"damaged at its end": {func(_ *testing.T, _ *setting, p Published) error {
		return os.Truncate(p.Info.PathAtRest, p.Info.Size-1)
	}, shipped, "does not lie on the site any more"},
	"rewrapped since": {func(t *testing.T, s *setting, p Published) error {
		friend, err := age.GenerateX25519Identity()
		if err != nil {
			return err
		}
		_, _, err = volume.Rewrap(t.Context(), p.Info.PathAtRest, []age.Identity{s.owner},
			[]age.Recipient{s.owner.Recipient(), friend.Recipient()})
		st, serr := os.Stat(p.Info.PathAtRest)
		if err := errors.Join(err, serr); err != nil {
			return err
		}
		p.Info.Size, p.Info.Checksum = st.Size(), volume.Digest{1}.String()
		b, err := p.Info.Encode()
		sig, serr := sshid.SignSSH(s.d.Signer, manifest.NamespaceInfo, b)
		return errors.Join(err, serr, os.WriteFile(p.InfoPath, b, 0o600), os.WriteFile(p.InfoPath+SigSuffix, sig, 0o600))
	}, there, ""},
	"gone here and there": {func(_ *testing.T, s *setting, p Published) error {
		return errors.Join(os.Remove(p.Info.PathAtRest), os.Remove(s.r.SealedPath))
	}, newer, "does not lie on the site any more"},
	"other content of the same size": {func(_ *testing.T, s *setting, _ Published) error {
		st, err := os.Stat(s.file)
		return errors.Join(err, os.WriteFile(s.file, bytes.Repeat([]byte("GENOME"), 5000), 0o600),
			os.Chtimes(s.file, st.ModTime(), st.ModTime()))
	}, newer, "the input has changed"},
	"copied, and compared by its content": {func(_ *testing.T, s *setting, _ Published) error {
		s.r.Checksum = true
		b, err := os.ReadFile(s.file)
		return errors.Join(err, os.Remove(s.file), os.WriteFile(s.file, b, 0o600))
	}, there, ""},
	"the same, its local file gone": {func(_ *testing.T, s *setting, _ Published) error {
		s.r.Checksum = true
		return errors.Join(os.Chtimes(s.file, time.Now(), time.Now()), os.Remove(s.r.SealedPath))
	}, there, ""},
	"one byte differs": {func(_ *testing.T, s *setting, _ Published) error {
		s.r.Checksum = true
		b, err := os.ReadFile(s.file)
		b[20_000] ^= 1
		return errors.Join(err, os.WriteFile(s.file, b, 0o600))
	}, newer, "renamed: differs"},
	"its mode differs": {func(_ *testing.T, s *setting, _ Published) error {
		s.r.Checksum = true
		return os.Chmod(s.file, 0o700)
	}, newer, "renamed: differs"},
	"a record that others can write": {func(_ *testing.T, s *setting, _ Published) error {
		s.r.Force = true // nor is it believed about the sealed file
		return os.Chmod(s.d.State, 0o777)
	}, newer, "cannot be compared"},
	"a damaged record": {func(_ *testing.T, s *setting, _ Published) error {
		all, err := filepath.Glob(s.d.State + "/published/*.json")
		if err != nil || len(all) != 1 {
			return errors.Join(err, errors.New("no record"))
		}
		return os.Truncate(all[0], 30)
	}, newer, "cannot be compared"},
}

// betweenTerms are what concerns options and the key service.
var betweenTerms = map[string]between{
	"later, with the same span": {func(_ *testing.T, s *setting, _ Published) error {
		s.r.Policy.Expires = s.r.Policy.Expires.Add(time.Hour)
		return nil
	}, there, ""},
	"the same users in another order": {func(_ *testing.T, s *setting, _ Published) error {
		s.r.Policy.Users = []string{"bob", "alice"}
		return nil
	}, there, ""},
	"other recipients": {func(_ *testing.T, s *setting, _ Published) error { s.r.Readers = []string{"age1other"}; return nil },
		newer, "other recipients"},
	"another name": {func(_ *testing.T, s *setting, _ Published) error { s.r.Name = "x"; return nil }, newer, "it was called data"},
	"another directory": {func(t *testing.T, s *setting, _ Published) error { s.r.DirAtRest = t.TempDir(); return nil },
		newer, "it was published in site:/"},
	"the same directory by another name": {func(t *testing.T, s *setting, _ Published) error {
		link := filepath.Join(t.TempDir(), "link")
		err := os.Symlink(s.r.DirAtRest, link)
		s.r.DirAtRest = link
		return err
	}, there, ""},
	"another login node of the site": {func(_ *testing.T, s *setting, _ Published) error { s.d.Site = "login2"; return nil },
		there, ""},
	"another site": {func(_ *testing.T, s *setting, p Published) error {
		s.d.Site = "elsewhere"
		return os.Remove(p.Info.PathAtRest)
	}, newer, "it was published on login1"},
	"purged, and another policy": {func(_ *testing.T, s *setting, p Published) error {
		s.r.Policy.Releases = 7
		return os.Remove(p.Info.PathAtRest)
	}, refusing, "policy set: --releases=7 changes"},
	"another policy": {func(_ *testing.T, s *setting, _ Published) error { s.r.Policy.Releases = 7; return nil },
		refusing, "releases: 7: policy set: --releases=7 changes"},
	"another expiry": {func(_ *testing.T, s *setting, _ Published) error {
		s.r.Expiry, s.r.Policy.Expires = "2d", time.Now().Add(48*time.Hour)
		return nil
	}, refusing, "expires: : policy set: --expires=2d changes"},
	"another expiry, which was set": {func(t *testing.T, s *setting, p Published) error {
		s.r.Expiry, s.r.Policy.Expires = "2d", time.Now().Add(48*time.Hour)
		return s.policySet(t, p, func(q *manifest.Policy) { q.Expires = time.Now().Add(47 * time.Hour) })
	}, there, "writing the info file"},
	"expired": {func(t *testing.T, s *setting, p Published) error {
		return s.policySet(t, p, func(q *manifest.Policy) { q.Expires = time.Now().Add(-time.Hour) })
	}, refusing, "its policy expired: policy set: --expires 365d renews it"},
	"its policy was set": {func(t *testing.T, s *setting, p Published) error {
		return s.policySet(t, p, func(q *manifest.Policy) { q.Users = []string{"carol"} })
	}, there, "its policy was set anew"},
	"its policy was set to what is asked for now": {func(t *testing.T, s *setting, p Published) error {
		s.r.Policy.Releases = 7
		return s.policySet(t, p, func(q *manifest.Policy) { q.Releases = 7 })
	}, there, "writing the info file"},
	"revoked": {func(t *testing.T, s *setting, p Published) error {
		_, err := s.service.Client(t, s.d.Signer).Revoke(t.Context(), p.Info.VolumeID)
		return err
	}, newer, ""},
	"deleted": {func(t *testing.T, s *setting, p Published) error {
		return s.service.Client(t, s.d.Signer).Delete(t.Context(), p.Info.VolumeID)
	}, newer, ""},
	"superseded from elsewhere": {func(t *testing.T, s *setting, _ Published) error {
		d, r := s.d, s.r
		d.State, r.DirAtRest, r.SealedPath = t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "d.sealed")
		_, err := Run(t.Context(), d, r)
		return err
	}, newer, "it was superseded"},
}

func TestAgain(t *testing.T) {
	t.Parallel()
	for _, all := range []map[string]between{betweenPublished, betweenTerms} {
		for name, c := range all {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.play(t)
			})
		}
	}
}

func (c between) play(t *testing.T) {
	s := newSetting(t)
	s.withState(t)
	s.d.Site = "login1"
	s.r.Readers, s.r.Expiry, s.r.Policy.Users = []string{"age1me"}, "365d", []string{"alice", "bob"}
	first, err := Run(t.Context(), s.d, s.r)
	if err != nil || first.Already {
		t.Fatalf("%+v, %v", first, err)
	}
	if err := c.change(t, s, first); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s.d.Log = slog.New(slog.NewTextHandler(&log, nil))
	p, err := Run(t.Context(), s.d, s.r)
	said := log.String()
	if c.want == refusing {
		said = err.Error() + ": " + fault.Hint(err)
	}
	for _, w := range strings.Split(c.says, ": ") {
		if !strings.Contains(said, w) {
			t.Errorf("it says %q, not %q", said, w)
		}
	}
	if (err != nil) != (c.want == refusing) {
		t.Fatal(err)
	}
	if c.want == refusing {
		return
	}
	if same := p.Info.VolumeID == first.Info.VolumeID; p.Already != (c.want == there) || same != (c.want != newer) {
		t.Errorf("already %v, the same volume %v; %s", p.Already, same, said)
	}
	s.checkAnnounced(t, p)
}

// checkAnnounced: the info file on the site is signed and says what Run returned.
func (s *setting) checkAnnounced(t *testing.T, p Published) {
	t.Helper()
	b, sig := readFile(t, p.InfoPath), readFile(t, p.InfoPath+SigSuffix)
	key, err := sshid.VerifySSH(manifest.NamespaceInfo, []byte(b), []byte(sig))
	if err != nil || sshid.Fingerprint(key) != sshid.Fingerprint(s.d.Signer.PublicKey()) {
		t.Errorf("signature: %v", err)
	}
	info, err := manifest.ParseInfo([]byte(b))
	if err != nil || info.VolumeID != p.Info.VolumeID || info.Digest != p.Info.Digest {
		t.Errorf("info file: %+v, %v", info, err)
	}
	secret, err := s.service.Client(t, s.d.Signer).GetSecret(t.Context(), info.VolumeID)
	if err != nil || len(changes(secret.Policy, info.Policy)) > 0 {
		t.Errorf("the policy in the info file is not the one in force: %v", err)
	}
	if there, err := liesAt(s.d.FS, p.Info.PathAtRest, info); err != nil || !there {
		t.Errorf("it does not lie there: %v", err)
	}
}

// readOnly is a site on which nothing may be made, and which is full.
type readOnly struct{ transfer.Local }

func (readOnly) Free(string) (int64, error) { return 0, nil }

func (readOnly) Create(p string, _ fs.FileMode) (transfer.WriteFile, error) {
	return nil, &fs.PathError{Op: "create", Path: p, Err: fs.ErrPermission}
}

// TestNothingTwice: what is there is neither sealed nor shipped, nor is its local file touched.
func TestNothingTwice(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	big := bytes.Repeat([]byte("genome"), tolerance)
	if err := os.WriteFile(s.file, big, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), s.d, s.r); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(s.r.SealedPath)
	if err != nil {
		t.Fatal(err)
	}
	s.d.FS = readOnly{}
	if p, err := Run(t.Context(), s.d, s.r); err != nil || !p.Already {
		t.Errorf("%+v, %v", p, err)
	}
	if now, err := os.Stat(s.r.SealedPath); err != nil || !os.SameFile(before, now) || now.ModTime() != before.ModTime() {
		t.Errorf("the sealed file was made again: %v", err)
	}
	if err := os.WriteFile(s.file, big[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), s.d, s.r); err == nil || !strings.Contains(err.Error(), "no space on the site") {
		t.Errorf("changed: %v", err)
	}
	if all := keyservertest.Secrets(t, s.service.Client(t, s.d.Signer)); len(all) != 1 {
		t.Errorf("deposited: %+v", all)
	}
}

// gone is a site whose connection breaks when the sealed file is looked at.
type gone struct{ transfer.Local }

func (g gone) Open(p string) (transfer.File, error) {
	if strings.HasSuffix(p, "d.sealed") {
		return nil, transfer.ErrConnect
	}
	return g.Local.Open(p)
}

// TestUnseenIsNotGone: that the volume could not be looked at is no reason to seal again.
func TestUnseenIsNotGone(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	if _, err := Run(t.Context(), s.d, s.r); err != nil {
		t.Fatal(err)
	}
	s.d.FS = gone{}
	if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, transfer.ErrConnect) {
		t.Errorf("%v", err)
	}
	if all := keyservertest.Secrets(t, s.service.Client(t, s.d.Signer)); len(all) != 1 {
		t.Errorf("deposited: %+v", all)
	}
}

// TestSaidBefore: what a new version supersedes, and what waits for it, is said before anything is sealed.
func TestSaidBefore(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	first, err := Run(t.Context(), s.d, s.r)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(s.file, []byte("new"), 0o600), os.Remove(s.r.SealedPath)); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s.d.Log = slog.New(slog.NewTextHandler(&log, nil))
	s.d.Waiting = func(_ context.Context, id string) (Waiting, error) {
		if _, err := os.Lstat(s.r.SealedPath); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it was sealed before: %v", err)
		}
		if id != first.Info.VolumeID {
			t.Errorf("asked for %s", id)
		}
		return Waiting{Here: []string{"job 4711 (PENDING)"}, Else: "2 jobs of bob's"}, nil
	}
	no := errors.New("no")
	s.d.Confirm = func(context.Context, string) error { return no }
	if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, no) {
		t.Errorf("it went on: %v", err)
	}
	if all := keyservertest.Secrets(t, s.service.Client(t, s.d.Signer)); len(all) != 1 || all[0].SupersededBy != "" {
		t.Errorf("after no: %+v", all)
	}
	s.d.Confirm = func(_ context.Context, what string) error {
		if !strings.Contains(what, "these jobs do not get its key") {
			t.Errorf("asked %q", what)
		}
		return nil
	}
	if _, err := Run(t.Context(), s.d, s.r); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(manifest.KeptPath(first.Info.PathAtRest, first.Info.VolumeID)); err != nil {
		t.Errorf("what a job waits for may still be pinned, but: %v", err)
	}
	for _, want := range []string{"supersedes the one that is published", first.Info.VolumeID, "the input has changed",
		"waiting for the older version: job 4711 (PENDING)", "2 jobs of bob's", "sealbatch policy set " + first.Info.VolumeID + " --pin-version keeps it open"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("it does not say %q: %s", want, log.String())
		}
	}
}

// TestSaidWhenTakenUp: a run that goes on where another was broken off says it, too.
func TestSaidWhenTakenUp(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	first, err := Run(t.Context(), s.d, s.r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := s.service.Client(t, s.d.Signer)
	s.d.Waiting = func(context.Context, string) (Waiting, error) {
		return Waiting{Here: []string{"job 4711 (PENDING)"}}, nil
	}
	s.d.Keys = awayKeys{keys}
	if _, err := Run(t.Context(), s.d, s.r); err == nil {
		t.Fatal("no error")
	}
	var log bytes.Buffer
	s.d.Keys, s.d.Log = keys, slog.New(slog.NewTextHandler(&log, nil))
	if _, err := Run(t.Context(), s.d, s.r); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "going on with") || !strings.Contains(log.String(), "job 4711") {
		t.Errorf("it does not say what waits: %s", log.String())
	}
	if _, err := os.Lstat(manifest.KeptPath(first.Info.PathAtRest, first.Info.VolumeID)); err != nil {
		t.Errorf("what a job waits for is gone: %v", err)
	}
}

// TestPinnedStays: a version that was pinned keeps its key, and its file lies beside the newer one's.
func TestPinnedStays(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	first, err := Run(t.Context(), s.d, s.r)
	if err != nil {
		t.Fatal(err)
	}
	sealed := readFile(t, first.Info.PathAtRest)
	if err := errors.Join(os.WriteFile(s.file, []byte("new"), 0o600),
		s.policySet(t, first, func(q *manifest.Policy) { q.PinVersion = true })); err != nil {
		t.Fatal(err)
	}
	second, err := Run(t.Context(), s.d, s.r)
	if err != nil {
		t.Fatal(err)
	}
	if readFile(t, manifest.KeptPath(first.Info.PathAtRest, first.Info.VolumeID)) != sealed {
		t.Error("the pinned version was altered")
	}
	s.checkAnnounced(t, second)
	if err := os.WriteFile(s.file, []byte("newest"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), s.d, s.r); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(s.r.DirAtRest + "/*"); len(left) != 4 { // the second was not pinned
		t.Errorf("on the site: %q", left)
	}
}
