package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/volume"
)

// copied is a job's directory, copied with its submitter's memory of it, for an
// attacker who can write the storage.
type copied struct {
	t     *testing.T
	who   person
	rec   submission.Record
	dir   string // the copy, where this machine finds it
	state string // the submitter's, on the laptop
}

// copyOf copies an ended job's directory.
func copyOf(t *testing.T, j *job, name string) *copied {
	t.Helper()
	home := "/home/" + string(j.who)
	// What others have written is not believed, so it is copied first.
	records := t.TempDir()
	// Other tests publish meanwhile, whose files beside those of jobs come and go.
	if err := os.CopyFS(records+"/jobs", os.DirFS(onDisk(t, "laptop", home+"/.local/state/sealbatch/jobs"))); err != nil {
		t.Fatal(err)
	}
	store, err := submission.Open(records)
	if err != nil {
		t.Fatal(err)
	}
	c := &copied{t: t, who: j.who, state: home + "/attacked/" + name}
	if c.rec, err = store.Find(j.id); err != nil {
		t.Fatal(err)
	}
	c.rec.JobDir = j.who.scratch() + "/attacked-" + name
	c.rec.RealDir = c.rec.JobDir
	must(t, "login", "root", "cp", "-a", j.dir, c.rec.JobDir)
	c.dir = onDisk(t, "login", c.rec.JobDir)
	must(t, "laptop", string(j.who), "mkdir", "-p", c.state)
	mine, err := submission.Open(filepath.Join(onDisk(t, "laptop", c.state), "sealbatch"))
	if err != nil {
		t.Fatal(err)
	}
	if err := mine.Save(c.rec); err != nil {
		t.Fatal(err)
	}
	must(t, "laptop", "root", "chown", "-R", string(j.who)+":", c.state)
	return c
}

func (c *copied) node(name string, file ...string) string {
	return filepath.Join(append([]string{c.dir, "nodes", name}, file...)...)
}

// open runs results on the copy, and returns where this machine finds each node's.
func (c *copied) open(program, out string) (map[string]string, result) {
	c.t.Helper()
	r := run(c.t.Context(), "laptop", string(c.who), nil, "env", "XDG_STATE_HOME="+c.state, program, "results",
		c.rec.JobID, "-o", c.state+"/"+out)
	nodes := map[string]string{}
	for _, d := range strings.Fields(r.out) {
		nodes[filepath.Base(d)] = onDisk(c.t, "laptop", d)
	}
	return nodes, r
}

// own gives what the attacker, root of the storage, put there to its victim.
func (c *copied) own() {
	c.t.Helper()
	must(c.t, "login", "root", "chown", "-R", string(c.who)+":", c.rec.JobDir)
}

// write puts a file of the attacker's into a node's directory.
func (c *copied) write(node, name, content string) {
	c.t.Helper()
	if err := os.WriteFile(c.node(node, name), []byte(content), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *copied) remove(node string, names ...string) {
	c.t.Helper()
	for _, n := range names {
		if err := os.RemoveAll(c.node(node, n)); err != nil {
			c.t.Fatal(err)
		}
	}
}

const forged = "what the attacker wants to be believed\n"

// recipients are the owner's, which are no secret.
func recipients(t *testing.T, who person) []age.Recipient {
	t.Helper()
	r, err := volume.ParseRecipients([]string{must(t, "laptop", string(who), "cat", ".ssh/id_ed25519.pub")})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sealForged seals a result of the attacker's to somebody.
func sealForged(t *testing.T, to []age.Recipient) ([]byte, volume.Sealed) {
	t.Helper()
	in := t.TempDir()
	if err := os.WriteFile(filepath.Join(in, "result"), []byte(forged), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	s, err := volume.Seal(t.Context(), &b, source.Dir(in), volume.SealOptions{Recipients: to})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), s
}

func statementOf(t *testing.T, c *copied, node string) manifest.Statement {
	t.Helper()
	b, err := os.ReadFile(c.node(node, jobdir.StatementName))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := manifest.DecodeKey(c.rec.Service.StatementKey)
	if err != nil {
		t.Fatal(err)
	}
	var st manifest.Statement
	if err := manifest.VerifyJWS(manifest.TypeStatement, pub, strings.TrimSpace(string(b)), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// forge replaces a node's results by the attacker's, with papers that only lack
// the right signatures.
func forge(c *copied, node string, ownStatement bool) {
	t := c.t
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, s := sealForged(t, recipients(t, c.who))
	st := statementOf(t, c, node)
	sign := func(typ string, v any) string {
		jws, err := manifest.SignJWS(typ, key, v)
		if err != nil {
			t.Fatal(err)
		}
		return jws + "\n"
	}
	if ownStatement {
		st.S = manifest.EncodeKey(pub)
		c.write(node, jobdir.StatementName, sign(manifest.TypeStatement, st))
	}
	now := time.Now().UTC()
	c.write(node, jobdir.OriginName, sign(manifest.TypeOrigin, manifest.Origin{
		Run: c.rec.Run, Manifest: c.rec.Manifest, Job: st.Job, Node: st.Node, VolumeID: s.ID.String(),
		Keys: manifest.DigestOf(sealed), Created: now,
	}))
	c.write(node, jobdir.ReceiptName, sign(manifest.TypeReceipt, manifest.Receipt{
		Run: c.rec.Run, Manifest: c.rec.Manifest, Job: st.Job, Node: st.Node, Tier: st.Tier,
		Started: now, Ended: now, Reason: "completed", Mounts: "namespace", Steps: []manifest.Step{},
		Output: manifest.Output{Sealed: true, File: "results.sealed", VolumeID: s.ID.String(), Digest: manifest.Digest(s.Digest),
			Checksum: manifest.Digest(s.Checksum), Size: s.Size, Until: "scratch"},
	}))
	c.write(node, "results.sealed", string(sealed))
}

// plantCipherDir makes a node look like a killed job's: a cipher directory of
// the attacker's, with its key wrapped to the owner.
func plantCipherDir(c *copied, node string, id volume.ID) {
	t := c.t
	t.Helper()
	to := recipients(t, c.who)
	sealed, s := sealForged(t, to)
	var keys bytes.Buffer
	if err := volume.WrapKey(&keys, id, s.Key, to...); err != nil {
		t.Fatal(err)
	}
	c.remove(node, jobdir.ReceiptName, "results.sealed", jobdir.CipherDirName)
	c.write(node, jobdir.KeysName, keys.String())
	untar(t, sealed, "volume", c.node(node, jobdir.CipherDirName))
}

// untar unpacks a directory of a sealed volume, as anybody can.
func untar(t *testing.T, sealed []byte, dir, to string) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(sealed))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		rel, ok := strings.CutPrefix(filepath.Clean(h.Name), dir)
		if !ok {
			continue
		}
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(filepath.Join(to, rel), 0o700)
		} else {
			var b []byte
			if b, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(filepath.Join(to, rel), b, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// twoJobs are two jobs of alice's: one on both nodes, one on cn1.
func twoJobs(t *testing.T) (both, other *job) {
	t.Helper()
	data := alice.dataset(t, "forgery",
		map[string]string{"run.sh": "echo genuine $SLURM_JOB_ID $SLURMD_NODENAME >/sd-container/output/result\n"})
	both = alice.submit(t, shell(t), data, "-N", "2")
	other = alice.submit(t, shell(t), data, "-w", "cn1")
	for _, j := range []*job{both, other} {
		if code := j.wait(); code != 0 {
			t.Fatalf("job %s: exit code %d", j.id, code)
		}
	}
	return both, other
}

// TestAttackForgedResults: whoever can write the storage makes results that are
// not those of the job on that node. Each is found, and with the one check taken
// out of the owner's program each is believed.
func TestAttackForgedResults(t *testing.T) {
	t.Parallel()
	both, other := twoJobs(t)
	unsigned := weakness{"internal/manifest/statement.go", "b, err := o.Verify(pub)",
		"b, err := o.UnsafePayloadWithoutVerification(), error(nil)"}
	const (
		checks = "internal/jobdir/check.go"
		fetch  = "internal/results/sealed.go"
	)
	for name, c := range map[string]struct {
		alter func(c *copied)
		weak  []weakness
		fake  string // what cn1's result then says
		want  string // how the owner is told
	}{
		"sealed and signed by somebody else": {
			alter: func(c *copied) { forge(c, "cn1", false) }, weak: []weakness{unsigned}, fake: forged, want: "signature",
		},
		"attested by somebody else": {
			alter: func(c *copied) { forge(c, "cn1", true) }, weak: []weakness{unsigned}, fake: forged, want: "signature",
		},
		"another job's": {
			alter: func(c *copied) {
				c.remove("cn1", "")
				must(c.t, "login", "root", "cp", "-a", other.dir+"/nodes/cn1", c.rec.JobDir+"/nodes/cn1")
			},
			// Each paper names its job: the check is there three times.
			weak: []weakness{
				{checks, "st.Service != want.Service || st.Manifest != want.Manifest", "st.Service == want.Run"},
				{checks, `want.JobID != "" && fmt.Sprint(st.Job.ID) != want.JobID`, "false"},
				{checks, "o.Run != want.Run || o.Manifest != want.Manifest", "o.Run == want.JobID"},
				{checks, "r.Run != want.Run || r.Manifest != want.Manifest", "r.Run == want.JobID"},
			},
			fake: "genuine " + other.id + " cn1\n", want: "another manifest",
		},
		"another node's": {
			alter: func(c *copied) {
				c.remove("cn1", "")
				must(c.t, "login", "root", "cp", "-a", c.rec.JobDir+"/nodes/cn2", c.rec.JobDir+"/nodes/cn1")
			},
			weak: []weakness{{checks, "st.Node != node && !restartOf(node, st)", "st.Node != node && !restartOf(node, st) && false"}},
			fake: "genuine " + both.id + " cn2\n", want: "it is for node",
		},
		"another node's sealed file": {
			alter: func(c *copied) {
				must(c.t, "login", "root", "cp", "-a", c.rec.JobDir+"/nodes/cn2/results.sealed", c.rec.JobDir+"/nodes/cn1/")
			},
			// The digest, the checksum and the size say the same.
			weak: []weakness{
				{fetch, "id.String() != out.VolumeID || manifest.Digest(digest) != out.Digest",
					"id.String() == out.File && manifest.Digest(digest) != out.Digest"},
				{fetch, "if manifest.Digest(sum) != out.Checksum", "if manifest.Digest(sum).IsZero()"},
				{fetch, "err == nil && st.Size() != out.Size", "err == nil && func() bool { out.Size = st.Size(); return false }()"},
			},
			fake: "genuine " + both.id + " cn2\n", want: "that the job signed",
		},
		"a killed job's": {
			alter: func(c *copied) {
				var id volume.ID
				copy(id[:], "a volume's name")
				plantCipherDir(c, "cn1", id)
			},
			weak: []weakness{
				{checks, "needed && manifest.DigestOf(f.Keys) != o.Keys", "needed && len(f.Keys) == 0"},
				{"internal/results/indexed.go", "manifest.DigestOf(f.files.Keys) != v.Origin.Keys", "len(f.files.Keys) == 0"},
				{"internal/results/indexed.go", "id.String() != v.Origin.VolumeID", "id.String() == v.Node"},
			},
			fake: forged, want: "wrapped keys",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := copyOf(t, both, strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "'", ""))
			c.alter(a)
			a.own()
			nodes, r := a.open("sealbatch", "out")
			if dir, ok := nodes["cn1"]; ok || r.code != 7 || !strings.Contains(r.err, c.want) || !strings.Contains(r.err, "do not use them") {
				t.Errorf("opened %q: %s", dir, r)
			}
			if got := read(t, nodes["cn2"], "result"); got != "genuine "+both.id+" cn2\n" {
				t.Errorf("the other node's results are %q", got)
			}
			nodes, r = a.open(installed(t, "laptop", weakened(t, c.weak...))+"/sealbatch", "control")
			if dir, ok := nodes["cn1"]; !ok || read(t, dir, "result") != c.fake {
				t.Errorf("without the defence the attack fails, too: %s", r)
			}
		})
	}
}
