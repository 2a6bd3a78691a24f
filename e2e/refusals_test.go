package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

// run.sh of datasets that must not be opened.
var simple = map[string]string{"run.sh": "echo ran >/sd-container/output/ran\n"}

// refused submits a job that gets no key and returns its log. Nothing may have
// been mounted or run.
func refused(t *testing.T, who person, image, data string, code int, flags ...string) string {
	t.Helper()
	j := who.submit(t, image, data, append(flags, "--force")...) // job-prep knows most of that beforehand
	if got := j.wait(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	if strings.Contains(j.log.String(), "mounts") {
		t.Error("something was mounted")
	}
	return j.log.String()
}

// Exit codes of the supervisor (noderun.ExitMeanings).
const (
	exitDirectory   = 239
	exitAttestation = 241
	exitKey         = 242
	exitIntegrity   = 243
)

func TestPolicyRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		who    person
		policy []string
		flags  []string
		want   string
	}{
		"another user":    {bob, []string{"-u", "alice", "-c", "*"}, nil, "user"},
		"another group":   {bob, []string{"-g", "alice", "-c", "*"}, nil, "group"},
		"another node":    {alice, []string{"-u", "alice", "-c", "cn1"}, []string{"-w", "cn2"}, "node"},
		"a higher tier":   {alice, []string{"-u", "alice", "-c", "*", "--tier", "A"}, nil, "tier"},
		"other partition": {alice, []string{"-u", "alice", "-c", "*", "--partitions", "small"}, []string{"-p", "standard"}, "partition"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := alice.dataset(t, "policy-"+strings.ReplaceAll(name, " ", "-"), simple, c.policy...)
			log := refused(t, c.who, shell(t), data, exitKey, c.flags...)
			if !strings.Contains(log, "key refused") || !strings.Contains(log, c.want) {
				t.Errorf("the log does not say why (%s)", c.want)
			}
		})
	}
	t.Run("allowed to the group", func(t *testing.T) {
		t.Parallel()
		// As Active Directory names groups; the verifier's host says who is in them.
		must(t, "login", "root", "sh", "-c", `grep -q '^domain users:' /etc/group || echo 'domain users:x:4001:bob' >>/etc/group`)
		data := alice.dataset(t, "policy-group", simple, "-g", `DOM\admins,domain users`, "-c", "cn[1-2]", "--partitions", "standard,small")
		if code := bob.submit(t, shell(t), data).wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

func TestKeyIsGone(t *testing.T) {
	t.Parallel()
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		data := alice.dataset(t, "gone-expired", simple, "-u", "alice", "-c", "*", "--expires", "8s")
		end := time.Now().Add(9 * time.Second)
		prep := []string{"job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", alice.scratch()}
		// A job that was prepared in time, but runs too late.
		script := alice.mustSB(t, append(prep, "--no-submit")...)
		eventually(t, 20*time.Second, "the policy expires", func() bool { return time.Now().After(end) })
		if r := run(t.Context(), "login", "alice", nil, "sbatch", "--parsable", "--wait", script); r.code != exitKey {
			t.Errorf("the late job: %s", r)
		}
		if r := alice.sb(t, prep...); r.code != 6 || !strings.Contains(r.err, "expired") {
			t.Errorf("job-prep after the expiry: %s", r)
		}
	})
	t.Run("revoked", func(t *testing.T) {
		t.Parallel()
		data := alice.dataset(t, "gone-revoked", simple)
		alice.mustSB(t, "policy", "revoke", "--yes", "gone-revoked.sealed")
		if log := refused(t, alice, shell(t), data, exitKey); !strings.Contains(log, "revoked") {
			t.Error("the log does not say why")
		}
	})
	t.Run("used up", func(t *testing.T) {
		t.Parallel()
		data := alice.dataset(t, "gone-used", simple, "-u", "alice", "-c", "*", "--releases", "1")
		if code := alice.submit(t, shell(t), data).wait(); code != 0 {
			t.Fatalf("the first release: exit code %d", code)
		}
		if log := refused(t, alice, shell(t), data, exitKey); !strings.Contains(log, "release") {
			t.Error("the log does not say why")
		}
	})
	t.Run("superseded", func(t *testing.T) {
		t.Parallel()
		data := alice.dataset(t, "gone-old", simple)
		old := map[string][]byte{}
		site := onDisk(t, "login", alice.scratch())
		for _, f := range []string{"gone-old.sealed", "gone-old.sealed.info.yaml", "gone-old.sealed.info.yaml.sig"} {
			b, err := os.ReadFile(filepath.Join(site, f))
			if err != nil {
				t.Fatal(err)
			}
			old[f] = b
		}
		alice.dataset(t, "gone-old", simple)
		// The older volume, put back with its own genuine info file.
		for f, b := range old {
			if err := os.WriteFile(filepath.Join(site, f), b, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		if log := refused(t, alice, shell(t), data, exitKey); !strings.Contains(log, "newer") && !strings.Contains(log, "supersede") {
			t.Error("the log does not say why")
		}
	})
}

func TestAlteredVolume(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		alter func(t *testing.T, file string)
		code  int
	}{
		"a byte of the index": {flipIndex, 7},                                                    // seen by job-prep
		"a byte of the data":  {func(t *testing.T, file string) { flip(t, file, 300_000) }, 243}, // seen when cat reads it
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := strings.ReplaceAll(name, " ", "-")
			data := alice.dataset(t, id, map[string]string{"run.sh": "cat /sd-container/input/big >/sd-container/output/copy\n",
				"big": strings.Repeat("0123456789abcdef", 1<<16)})
			c.alter(t, filepath.Join(onDisk(t, "login", alice.scratch()), id+".sealed"))
			r := alice.sb(t, "job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", alice.scratch(),
				"-args", "/sd-container/input/run.sh", "-f")
			if r.code != c.code {
				t.Errorf("want exit code %d: %s", c.code, r)
			}
		})
	}
	t.Run("the image", func(t *testing.T) {
		t.Parallel()
		image := alice.image(t, testImage(t, "sh.sif"), "altered")
		data := alice.dataset(t, "for-altered-image", simple)
		p := filepath.Join(onDisk(t, "login", alice.scratch()), "altered.sealed")
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		for off := int64(1 << 20); off < st.Size()-1<<20; off += 1 << 20 {
			flip(t, p, off)
		}
		j := alice.submit(t, image, data)
		if code := j.wait(); code == 0 {
			t.Error("an altered image ran")
		}
		nodes, _ := j.results()
		for _, dir := range nodes {
			if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
				t.Error("the application of an altered image ran")
			}
		}
	})
}

// flipIndex flips a bit of the sealed index, which lies near the end.
func flipIndex(t *testing.T, file string) {
	t.Helper()
	digest := func() volume.Digest {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		_, d, _ := volume.ReadDigest(f, st.Size())
		return d
	}
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	before := digest()
	for off := st.Size() - 2100; off > 0; off -= 64 {
		flip(t, file, off)
		if after := digest(); after != before && after != (volume.Digest{}) {
			return
		}
		flip(t, file, off)
	}
	t.Fatal("no byte of the index was found")
}

func flip(t *testing.T, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func TestStranger(t *testing.T) {
	t.Parallel()
	// mallory knows login's host key from elsewhere, and may log in.
	write(t, "laptop", "mallory", ".ssh/known_hosts", must(t, "laptop", "alice", "cat", ".ssh/known_hosts")+"\n")
	data := alice.dataset(t, "stranger", simple)
	t.Run("reads nothing of the project", func(t *testing.T) {
		r := mallory.sb(t, "job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", "/home/mallory")
		if r.code == 0 || !strings.Contains(strings.ToLower(r.err), "permission denied") {
			t.Errorf("%s", r)
		}
	})
	t.Run("gets no key for volumes she has copies of", func(t *testing.T) {
		dir := "/scratch/open"
		must(t, "login", "root", "bash", "-c",
			"mkdir -p -m 755 "+dir+" && cp "+alice.scratch()+"/{stranger,sh}.sealed* "+dir+" && chmod a+r "+dir+"/*")
		// Their info files name the project's paths; a manifest can name others.
		must(t, "login", "root", "chmod", "o+x", project, alice.scratch())
		t.Cleanup(func() { run(context.Background(), "login", "root", nil, "chmod", "o-x", project, alice.scratch()) })
		for _, f := range []string{"stranger.sealed", "sh.sealed"} {
			must(t, "login", "root", "chmod", "o+r", alice.scratch()+"/"+f)
		}
		log := refused(t, mallory, dir+"/sh.sealed.info.yaml", dir+"/stranger.sealed.info.yaml", exitKey, "--workdir", "/home/mallory")
		if !strings.Contains(log, "key refused") {
			t.Error("the log does not say why")
		}
	})
	t.Run("her info files are not believed", func(t *testing.T) {
		must(t, "login", "root", "sh", "-c", "mkdir -p /scratch/hers && chown mallory /scratch/hers && chmod 755 /scratch/hers")
		write(t, "laptop", "mallory", "data/hers/x", "y")
		info := mallory.mustSB(t, "data-prep", "-i", "data/hers", "--data-path", "data/hers.sealed", "--data-path-at-rest",
			"/scratch/hers", "-u", "alice", "-c", "*")
		must(t, "login", "root", "sh", "-c", "chmod a+r /scratch/hers/*")
		r := alice.sb(t, "job-prep", "-ai", shell(t), "-di", info, "-t", "10", "--seal-time", "60", "--workdir", alice.scratch())
		if r.code != 7 || !strings.Contains(r.err, "not trusted") || !strings.Contains(r.err, "allowed-signers") {
			t.Errorf("%s", r)
		}
	})
	t.Run("an unknown host is refused", func(t *testing.T) {
		write(t, "laptop", "mallory", ".ssh/known_hosts", "")
		r := mallory.sb(t, "data-prep", "-i", "data/hers", "--data-path", "data/hers.sealed", "--data-path-at-rest",
			"/scratch/hers", "-u", "alice", "-c", "*")
		if r.code != 4 || !strings.Contains(r.err, "host key of login is unknown") {
			t.Errorf("%s", r)
		}
	})
}

func TestToken(t *testing.T) {
	t.Parallel()
	t.Run("where the owner permits tier C", func(t *testing.T) {
		t.Parallel()
		image := alice.image(t, testImage(t, "sh.sif"), "sh-c", "-u", "alice", "-c", "*", "--tier", "C")
		data := alice.dataset(t, "token", simple, "-u", "alice", "-c", "*", "--tier", "C")
		j := alice.submit(t, image, data, "--tier", "C", "-N", "2")
		if code := j.wait(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if nodes, r := j.results(); len(nodes) != 2 || !strings.Contains(r.err, "(tier C") {
			t.Errorf("results: %s", r)
		}
	})
	t.Run("not where the policy wants B2", func(t *testing.T) {
		t.Parallel()
		data := alice.dataset(t, "token-b2", simple)
		if log := refused(t, alice, shell(t), data, exitKey, "--tier", "C"); !strings.Contains(log, "tier") {
			t.Error("the log does not say why")
		}
	})
}
