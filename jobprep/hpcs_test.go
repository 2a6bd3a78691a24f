package jobprep

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// hpcsData puts a dataset that HPCS prepared on the site, and returns its info file and the file of its key.
func (s *site) hpcsData(file string) (info, key string) {
	s.t.Helper()
	here := s.t.TempDir()
	check(s.t, errors.Join(os.CopyFS(here, os.DirFS("../internal/hpcs/testdata")), os.Chmod(here+"/keys", 0o600)))
	check(s.t, errors.Join(os.Rename(here+"/"+file, s.scratch+"/"+file),
		os.Rename(here+"/"+file+".info.yaml", s.scratch+"/"+file+".info.yaml")))
	return s.scratch + "/" + file + ".info.yaml", here + "/keys"
}

// TestWhatHPCSPrepared: the job's manifest pins the file, and the key service has its key for this job alone.
func TestWhatHPCSPrepared(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	info, key := s.hpcsData("encrypted_jp2a_input.tgz")
	var said bytes.Buffer
	s.d.Log = slog.New(slog.NewTextHandler(&said, nil))
	s.o.DataInfo, s.o.HPCSKeys = []string{s.o.DataInfo[0], info}, []string{key}
	p, err := Prepare(t.Context(), s.d, s.o)
	check(t, err)
	p.Close()
	b, err := os.ReadFile(p.Record.JobDir + "/manifest.json")
	check(t, err)
	m, _, err := manifest.Parse(b)
	check(t, err)
	v := m.Volumes[2]
	if v.HPCS == nil || v.Name != "jp2a_input" || v.Path != filepath.Join(s.scratch, "encrypted_jp2a_input.tgz") || v.Kind != manifest.KindDataset {
		t.Errorf("manifest: %+v", v)
	}
	secret, err := s.service.Client(t, s.alice).GetSecret(t.Context(), v.VolumeID)
	check(t, err)
	if policy := secret.Policy; secret.Digest != v.Digest || !slices.Equal(policy.Users, []string{"alice"}) || !policy.Expires.Equal(m.Expires) ||
		!slices.Equal(policy.Clusters, []string{m.Cluster}) || policy.Evidence != s.o.Attest || policy.Tier != s.o.Tier {
		t.Errorf("deposited: %+v", secret)
	}
	for _, want := range []string{"it is you who vouches", "once more, encrypted", "sealbatch data-prep --from-hpcs " + info} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it does not say %q: %s", want, said.String())
		}
	}
	// The next job has a key of its own, and takes none from this one.
	q, err := Prepare(t.Context(), s.d, s.o)
	check(t, err)
	q.Close()
	if again, err := s.service.Client(t, s.alice).GetSecret(t.Context(), v.VolumeID); err != nil || again.SupersededBy != "" {
		t.Errorf("after another job: %+v, %v", again, err)
	}
}

// TestBrokenOffForgetsTheKey: a job that is not submitted leaves no key.
func TestBrokenOffForgetsTheKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	info, key := s.hpcsData("encrypted_jp2a_input.tgz")
	s.o.DataInfo, s.o.HPCSKeys = []string{info}, []string{key}
	before := s.deposited()
	s.d.FS = full{transfer.Local{}, "job.sbatch"}
	if _, err := Prepare(t.Context(), s.d, s.o); !errors.Is(err, errFull) {
		t.Errorf("Prepare: %v", err)
	}
	s.nothingLeft()
	if after := s.deposited(); !slices.Equal(after, before) {
		t.Errorf("deposited: %q, before %q", after, before)
	}
}

// TestHPCSRefused: what is wrong is said before anything is made.
func TestHPCSRefused(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for name, c := range map[string]struct {
		class  fault.Class
		says   string
		change func(s *site, info, key string)
	}{
		"no key":       {fault.Integrity, "written by HPCS", func(s *site, _, _ string) { s.o.HPCSKeys = nil }},
		"key for none": {fault.Usage, "no info file here is HPCS's", func(s *site, _, _ string) { s.o.DataInfo = s.o.DataInfo[:0] }},
		"no name": {fault.Usage, "has a name for the dataset", func(s *site, _, _ string) {
			info, _ := s.hpcsData("encrypted_.tgz")
			s.o.DataInfo = []string{info}
		}},
		"not its suffix": {fault.Usage, "does not end in .info.yaml", func(s *site, info, _ string) {
			check(s.t, os.Rename(info, s.scratch+"/info"))
			s.o.DataInfo = []string{s.scratch + "/info"}
		}},
		"no file":  {fault.Usage, "no such file", func(s *site, info, _ string) { check(s.t, os.Remove(strings.TrimSuffix(info, ".info.yaml"))) }},
		"no image": {fault.Usage, "", func(s *site, info, _ string) { s.o.ApplicationInfo, s.o.DataInfo = info, nil }},
		"open key": {fault.Config, "by everybody", func(s *site, _, key string) { check(s.t, os.Chmod(key, 0o644)) }},
		"cut": {fault.Integrity, "damaged", func(s *site, info, _ string) {
			file := strings.TrimSuffix(info, ".info.yaml")
			st, err := os.Stat(file)
			check(s.t, errors.Join(err, os.Truncate(file, st.Size()-1)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shared.site(t)
			info, key := s.hpcsData("encrypted_jp2a_input.tgz")
			s.o.DataInfo, s.o.HPCSKeys = []string{info}, []string{key}
			c.change(s, info, key)
			_, err := Prepare(t.Context(), s.d, s.o)
			if err == nil || fault.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v (%v), want %q", err, fault.ClassOf(err), c.says)
			}
			s.nothingLeft()
		})
	}
}

// deposited returns the ids of what the key service has of alice's.
func (s *site) deposited() (ids []string) {
	s.t.Helper()
	for e, err := range s.service.Client(s.t, s.alice).Secrets(s.t.Context()) {
		check(s.t, err)
		ids = append(ids, e.VolumeID)
	}
	return ids
}
