package jobprep

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// TestFailureLeavesNothing breaks off at each step that writes.
func TestFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for _, name := range []string{"bin/gocryptfs", "manifest.json", "job.sbatch", "scripts/input/a.sh"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shared.site(t)
			s.o.InputScripts = t.TempDir()
			check(t, os.WriteFile(filepath.Join(s.o.InputScripts, "a.sh"), nil, 0o700))
			s.d.FS = full{transfer.Local{}, name}
			if _, err := Prepare(t.Context(), s.d, s.o); !errors.Is(err, errFull) {
				t.Errorf("Prepare: %v", err)
			}
			s.nothingLeft()
		})
	}
	t.Run("record", func(t *testing.T) {
		t.Parallel()
		s := shared.site(t)
		check(t, os.WriteFile(filepath.Join(s.state, "jobs"), nil, 0o600)) // where the store's directory should be
		if _, err := Prepare(t.Context(), s.d, s.o); err == nil {
			t.Error("a job that cannot be remembered was prepared")
		}
		if dirs := s.jobDirs(); len(dirs) > 0 {
			t.Errorf("left behind: %q", dirs)
		}
	})
}

func (s *site) nothingLeft() {
	s.t.Helper()
	if dirs := s.jobDirs(); len(dirs) > 0 {
		s.t.Errorf("left behind: %q", dirs)
	}
	if all, err := s.d.Store.List(); err != nil || len(all) > 0 {
		s.t.Errorf("recorded: %v, %v", all, err)
	}
}

var errFull = errors.New("no space left on device")

// full is a site on which one file cannot be written.
type full struct {
	transfer.Local
	suffix string
}

func (f full) Create(path string, perm fs.FileMode) (transfer.WriteFile, error) {
	if strings.HasSuffix(strings.TrimSuffix(path, transfer.PartialSuffix), f.suffix) {
		return nil, errFull
	}
	return f.Local.Create(path, perm)
}

// TestPrepareRefuses changes one thing at a time; nothing is laid out or remembered.
func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	stranger, shared := keyservertest.NewSigner(t), newService(t)
	for name, c := range map[string]struct {
		code fault.Class
		want string
		do   func(s *site)
	}{
		"no info file":       {fault.Usage, "there is no info file site:", func(s *site) { s.o.DataInfo[0] += "x" }},
		"unsigned":           {fault.Integrity, "not signed", func(s *site) { check(s.t, os.Remove(s.o.DataInfo[0]+".sig")) }},
		"image unsigned":     {fault.Integrity, "not signed", func(s *site) { check(s.t, os.Remove(s.o.ApplicationInfo+".sig")) }},
		"signed by stranger": {fault.Integrity, "", func(s *site) { s.resign(s.o.DataInfo[0], stranger, func(*manifest.Info) {}) }},
		"altered": {fault.Integrity, "did not sign", func(s *site) {
			b, err := os.ReadFile(s.o.DataInfo[0])
			check(s.t, err)
			check(s.t, os.WriteFile(s.o.DataInfo[0], bytes.Replace(b, []byte("alice"), []byte("mallo"), 1), 0o600))
		}},
		"another file's signature": {fault.Integrity, "", func(s *site) {
			b, err := os.ReadFile(s.o.ApplicationInfo + ".sig")
			check(s.t, err)
			check(s.t, os.WriteFile(s.o.DataInfo[0]+".sig", b, 0o600))
		}},
		"signed for another purpose": {fault.Integrity, "", func(s *site) {
			b, err := os.ReadFile(s.o.DataInfo[0])
			check(s.t, err)
			check(s.t, os.WriteFile(s.o.DataInfo[0]+".sig", keyservertest.Sign(s.t, s.alice, manifest.NamespaceManifest, b), 0o600))
		}},
		"HPCS's info file": {fault.Integrity, "HPCS", func(s *site) {
			check(s.t, os.Remove(s.o.DataInfo[0]+".sig"))
			check(s.t, os.WriteFile(s.o.DataInfo[0], []byte("info:\n  path_at_rest: /s/x\n  secret_path: kv/x\n  access_role: r\n"), 0o600))
		}},
		"too large":  {fault.Other, "larger than", func(s *site) { check(s.t, os.Truncate(s.o.DataInfo[0], maxSmall+1)) }},
		"wrong kind": {fault.Usage, "describes a dataset, not an image", func(s *site) { s.o.ApplicationInfo = s.o.DataInfo[0] }},
		"expired": {fault.Key, "policy expired", func(s *site) {
			s.resign(s.o.DataInfo[0], s.alice, func(i *manifest.Info) { i.Policy.Expires = time.Now().Add(-time.Hour).UTC() })
		}},
		"volume is gone": {fault.Other, "no such file", func(s *site) { check(s.t, os.Remove(filepath.Join(s.scratch, "data.sealed"))) }},
		"volume cut": {fault.Integrity, "bytes, not the",
			func(s *site) { check(s.t, os.Truncate(filepath.Join(s.scratch, "data.sealed"), 5000)) }},
		"volume replaced": {fault.Integrity, "", func(s *site) { s.replaceVolume() }},
		"another digest": {fault.Integrity, "not the volume that its owner signed",
			func(s *site) { s.resign(s.o.DataInfo[0], s.alice, func(i *manifest.Info) { i.Digest[0] ^= 1 }) }},
		"host binds":         {fault.Key, "does not permit", func(s *site) { s.o.Flags = []string{"--bind", "/proj:/proj"} }},
		"another network":    {fault.Usage, "network", func(s *site) { s.o.Network = "bridge" }},
		"network by a flag":  {fault.Usage, "--network none", func(s *site) { s.o.Flags = []string{"--net"} }},
		"forbidden flag":     {fault.Usage, "-flags", func(s *site) { s.o.Flags = []string{"--keep-privs"} }},
		"damaged argument":   {fault.Usage, "U+FFFD", func(s *site) { s.o.Args = []string{"gen\ufffdme"} }},
		"invalid UTF-8":      {fault.Usage, "UTF-8", func(s *site) { s.o.Args = []string{"\x80\xff"} }},
		"two equal names":    {fault.Usage, "two datasets are called", func(s *site) { s.o.DataInfo = append(s.o.DataInfo, s.o.DataInfo[0]) }},
		"scripts nowhere":    {fault.Usage, "verification scripts", func(s *site) { s.o.InputScripts = s.scratch + "/nowhere" }},
		"scripts are a file": {fault.Usage, "not a directory", func(s *site) { s.o.InputScripts = s.o.DataInfo[0] }},
		"no program":         {fault.Other, "program for the nodes", func(s *site) { s.o.Programs[1] += "x" }},
		"no work directory":  {fault.Other, "work directory", func(s *site) { s.o.Workdir += "/nowhere" }},
		"open work directory": {fault.SSH, "can be changed by anyone", func(s *site) {
			s.o.Workdir = filepath.Join(s.scratch, "open")
			check(s.t, os.Mkdir(s.o.Workdir, 0o700))
			check(s.t, os.Chmod(s.o.Workdir, 0o777))
		}},
		"unknown cluster": {fault.Config, "no verifier of cluster", func(s *site) { s.o.Cluster = "elsewhere" }},
		"bad time limit":  {fault.Usage, "", func(s *site) { s.o.Script.Time = "soon" }},
		"not enrolled":    {fault.Key, "", func(s *site) { s.d.Keys = s.service.Client(s.t, stranger) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shared.site(t)
			c.do(s)
			_, err := Prepare(t.Context(), s.d, s.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Prepare: %v; want %q", err, c.want)
			}
			if fault.ClassOf(err) != c.code {
				t.Errorf("class %s for %q, want %d", fault.ClassOf(err), err, c.code)
			}
			s.nothingLeft()
		})
	}
}

// TestBrokenOffPublication: a newer version's sealed file, or that and its signature, beside the older
// info file is what a killed data-prep leaves.
func TestBrokenOffPublication(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for name, leave := range map[string]func(s *site){
		"sealed file": func(s *site) { s.replaceVolume() },
		"signature": func(s *site) {
			b, err := os.ReadFile(s.o.DataInfo[0])
			check(s.t, err)
			s.resign(s.o.DataInfo[0], s.alice, func(i *manifest.Info) { i.Digest[0] ^= 1 })
			check(s.t, os.WriteFile(s.o.DataInfo[0], b, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shared.site(t)
			leave(s)
			_, err := Prepare(t.Context(), s.d, s.o)
			if fault.ClassOf(err) != fault.Integrity ||
				!strings.Contains(fault.Hint(err), "broke off while it published a newer version, the same command again puts that right") {
				t.Errorf("%v; hint: %s", err, fault.Hint(err))
			}
		})
	}
}

// replaceVolume puts a volume of the same size, by the same owner, in the place of data.sealed.
func (s *site) replaceVolume() {
	s.t.Helper()
	b, err := os.ReadFile(strings.TrimSuffix(s.publish("atad", manifest.KindDataset, nil), publish.InfoSuffix))
	check(s.t, err)
	check(s.t, os.WriteFile(filepath.Join(s.scratch, "data.sealed"), b, 0o600))
}

// TestHostBindsPermitted: with the owners' permission they pass.
func TestHostBindsPermitted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	permit := func(p *manifest.Policy) { p.HostBinds = true }
	s.o.Flags = []string{"--bind", "/proj:/proj"}
	s.o.ApplicationInfo, s.o.DataInfo = s.publish("image2", manifest.KindImage, permit),
		[]string{s.publish("data2", manifest.KindDataset, permit)}
	if _, err := Prepare(t.Context(), s.d, s.o); err != nil {
		t.Errorf("Prepare: %v", err)
	}
}

// TestNetworkNone: one owner's demand is the job's, and a submitter may have it without.
func TestNetworkNone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	demand := func(p *manifest.Policy) { p.Network = manifest.NetworkNone }
	plain, closed := s.o.DataInfo, append(slices.Clone(s.o.DataInfo), s.publish("data2", manifest.KindDataset, demand))
	for name, c := range map[string]struct {
		data        []string
		asked, want string
	}{
		"nobody": {plain, "", ""}, "the submitter": {plain, "none", "none"}, "an owner": {closed, "", "none"},
	} {
		s.o.DataInfo, s.o.Network = c.data, c.asked
		p, err := Prepare(t.Context(), s.d, s.o)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(p.ScriptPath), jobdir.ManifestName))
		check(t, err)
		if m, _, err := manifest.Parse(b); err != nil || m.Network != c.want {
			t.Errorf("%s demands it: network %q, %v", name, m.Network, err)
		}
	}
}

// TestSubmitFails keeps what lies ready, under its run.
func TestSubmitFails(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, err := Prepare(t.Context(), s.d, s.o)
	if err != nil {
		t.Fatal(err)
	}
	s.d.Slurm = slurm.Commands{Runner: runner(func([]string, string) (string, string, int) { return "", "no such partition", 1 })}
	if _, err := Submit(t.Context(), s.d, p); !errors.Is(err, slurm.ErrSlurm) {
		t.Errorf("Submit: %v", err)
	}
	if rec, err := s.d.Store.Find(p.Record.Run); err != nil || rec.JobID != "" {
		t.Errorf("record: %+v, %v", rec, err)
	}
}
