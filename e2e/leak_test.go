package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/sylabs/sif/v2/pkg/sif"

	"github.com/sealbatch/sealbatch/volume"
)

// needle is something that must not be found outside of sealbatch.
type needle struct {
	what  string
	bytes []byte
}

// haystack is where it is looked for, from the time it was made.
type haystack struct {
	t       *testing.T
	since   time.Time
	needles []needle
}

// hosts on which nothing may be found. The laptop is the researcher's own, but
// the keys of the job must not lie there in the open either.
var hosts = []string{"login", "cn1", "cn2", "keys"}

// finding is a needle, and where it was.
type finding struct{ what, where string }

// search looks everywhere that others than the job itself can look.
func (h *haystack) search() []finding {
	h.t.Helper()
	var out []finding
	for _, host := range hosts {
		out = append(out, h.files(host)...)
		out = append(out, h.output(host+": processes as bob sees them", host, "bob", "sh", "-c",
			"cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; ps -ef; true")...)
		out = append(out, h.output(host+": command lines as root sees them", host, "root", "sh", "-c",
			"cat /proc/[0-9]*/cmdline 2>/dev/null; true")...)
	}
	out = append(out, h.output("scontrol", "login", "root", "sh", "-c",
		"scontrol show job -dd; squeue -h -t all -o %all; sacct -P 2>/dev/null; true")...)
	return out
}

// files searches every file that was changed since, by name and by content, on
// every file system of a host: its own, and the shared ones.
func (h *haystack) files(host string) []finding {
	var out []finding
	root := onDisk(h.t, host, "/")
	for _, mount := range h.mounts(root) {
		out = append(out, h.tree(host, filepath.Join(root, mount))...)
	}
	return out
}

// mounts lists a host's mounts that hold files.
func (h *haystack) mounts(root string) []string {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(root), "mountinfo"))
	if err != nil {
		h.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		_, rest, ok := strings.Cut(line, " - ")
		if len(f) < 5 || !ok {
			h.t.Fatalf("mountinfo: %q", line)
		}
		switch kind := strings.Fields(rest)[0]; kind {
		case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "devtmpfs":
		default:
			out = append(out, f[4])
		}
	}
	if len(out) < 3 {
		h.t.Fatalf("only the mounts %q of %s are seen", out, root)
	}
	return out
}

// tree searches one file system.
func (h *haystack) tree(host, dir string) []finding {
	var out []finding
	var top syscall.Stat_t
	if err := syscall.Stat(dir, &top); err != nil {
		return nil // a mount that has gone
	}
	// With the slash, since /proc/PID/root itself is a symbolic link.
	filepath.WalkDir(dir+"/", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		var st syscall.Stat_t
		if syscall.Lstat(p, &st) != nil {
			return nil
		}
		if d.IsDir() && st.Dev != top.Dev {
			return fs.SkipDir
		}
		if time.Unix(st.Ctim.Unix()).Before(h.since) {
			return nil
		}
		out = append(out, h.match(host+":"+p+" (name)", []byte(d.Name()))...)
		if st.Mode&syscall.S_IFMT == syscall.S_IFREG {
			out = append(out, h.content(host+":"+p, p)...)
		}
		return nil
	})
	return out
}

// content searches a file in pieces that overlap.
func (h *haystack) content(where, p string) []finding {
	f, err := os.Open(p)
	if err != nil {
		return nil
	}
	defer f.Close()
	const piece, overlap = 4 << 20, 256
	buf := make([]byte, piece)
	for off := int64(0); ; off += piece - overlap {
		n, err := f.ReadAt(buf, off)
		if found := h.match(where, buf[:n]); len(found) > 0 {
			return found
		}
		if err != nil {
			return nil
		}
	}
}

func (h *haystack) output(where, host, user string, argv ...string) []finding {
	r := run(context.Background(), host, user, nil, argv...)
	return h.match(where, []byte(r.out))
}

func (h *haystack) match(where string, b []byte) []finding {
	var out []finding
	for _, n := range h.needles {
		if bytes.Contains(b, n.bytes) {
			out = append(out, finding{n.what, where})
		}
	}
	return out
}

// add makes something a needle, as it is and in the ways it might be written.
func (h *haystack) add(what string, b []byte) {
	for _, form := range [][]byte{b, []byte(hex.EncodeToString(b)), []byte(strings.ToUpper(hex.EncodeToString(b))),
		[]byte(base64.StdEncoding.EncodeToString(b)), []byte(base64.RawURLEncoding.EncodeToString(b))} {
		h.needles = append(h.needles, needle{what, form})
	}
}

// leakApp writes a canary wherever an application can write, dumps core, and
// waits to be told to end. It is told the name of its input as an argument, and
// starts itself again without: an application's own command line shows to all.
const leakApp = `#!/bin/bash
[ $# -eq 0 ] || INPUT=$1 exec /.singularity.d/runscript
c=$(cat "/sd-container/input/$INPUT")
[ "$c" = "$SECRET" ] || exit 9
for d in "$HOME" /tmp /var/tmp /dev/shm /sd-container/scratch /sd-container/output; do
    echo "$c" >"$d/$INPUT"
done
(ulimit -c unlimited; cd /tmp; bash -c 'x=$1; kill -SEGV $$' bash "$c") 2>/dev/null
export LEAK="$c"
trap 'exit 0' USR1
sleep 7777 &
wait
`

// leakImage is sh.sif with a canary that its compression cannot hide, running leakApp.
func leakImage(t *testing.T, canary []byte) string {
	t.Helper()
	dir := t.TempDir()
	must(t, "laptop", "root", "mkdir", "-p", "/tmp/leak")
	unpackImage(t, testImage(t, "sh.sif"), filepath.Join(onDisk(t, "laptop", "/tmp/leak"), "box"))
	write(t, "laptop", "root", "/tmp/leak/box/opt/canary", string(canary))
	write(t, "laptop", "root", "/tmp/leak/box/.singularity.d/runscript", leakApp)
	must(t, "laptop", "root", "apptainer", "--quiet", "build", "/tmp/leak/leak.sif", "/tmp/leak/box")
	b, err := os.ReadFile(onDisk(t, "laptop", "/tmp/leak/leak.sif"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, canary[1000:1064]) {
		t.Fatal("the canary cannot be seen in the image: finding it would prove nothing")
	}
	must(t, "laptop", "root", "rm", "-rf", "/tmp/leak")
	p := filepath.Join(dir, "leak.sif")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// unpackImage writes a SIF file's root file system to a new directory.
func unpackImage(t *testing.T, file, dir string) {
	t.Helper()
	img, err := sif.LoadContainerFromPath(file, sif.OptLoadWithFlag(os.O_RDONLY))
	if err != nil {
		t.Fatal(err)
	}
	defer img.UnloadContainer()
	d, err := img.GetDescriptor(sif.WithPartitionType(sif.PartPrimSys))
	if err != nil {
		t.Fatal(err)
	}
	squash := filepath.Join(t.TempDir(), "squashfs")
	w, err := os.Create(squash)
	if err == nil {
		_, err = io.Copy(w, d.GetReader())
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unsquashfs", "-quiet", "-no-progress", "-d", dir, squash).CombinedOutput(); err != nil {
		t.Fatalf("unsquashfs: %v\n%s", err, out)
	}
}

// volumeKey opens a sealed volume's own key, as alice can.
func volumeKey(t *testing.T, onLaptop string) []byte {
	t.Helper()
	f, err := os.Open(onDisk(t, "laptop", "/home/alice/"+onLaptop))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	key, err := volume.UnwrapKey(f, st.Size(), aliceIdentity(t)...)
	if err != nil {
		t.Fatal(err)
	}
	return key.Bytes()
}

func aliceIdentity(t *testing.T) []age.Identity {
	t.Helper()
	key, err := os.ReadFile(onDisk(t, "laptop", "/home/alice/.ssh/id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(own, key, 0o600); err != nil {
		t.Fatal(err)
	}
	ids, err := volume.ParseIdentityFile(own, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// slurmsOwn are the places in which Slurm keeps a job's script, tokens included: its own
// directories, which other users cannot read (docs/threat-model.md).
var slurmsOwn = regexp.MustCompile(`^(login|cn[12]):.*/var/lib/slurm/slurm(ctld|d)/`)

const oneTimeToken = "a one-time token"

// tokensOf returns the one-time tokens in the script of a job, which Slurm shows to its user.
func tokensOf(t *testing.T, j *job) []string {
	t.Helper()
	text := must(t, "login", string(j.who), "scontrol", "write", "batch_script", j.id, "-")
	_, text, _ = strings.Cut(text, "builtin printf '%s\\n' \\\n")
	text, _, _ = strings.Cut(text, "\n}\n")
	return strings.Fields(strings.ReplaceAll(text, "\\", " "))
}

func TestNothingLeaks(t *testing.T) {
	h := &haystack{t: t, since: time.Now().Add(-time.Second)}
	noise := make([]byte, 256<<10) // whole blocks of a squashfs (128 KiB), which are stored as they are
	rand.Read(noise)
	dataCanary, name := "CANARY-"+rand.Text(), "patient-"+rand.Text()
	h.needles = append(h.needles, needle{"the dataset's canary", []byte(dataCanary)}, needle{"the input's file name", []byte(name)},
		needle{"the image's canary", noise[1000:1064]})

	policy := []string{"-u", "alice", "-c", "*", "--tier", "C"}
	image := alice.image(t, leakImage(t, noise), "leak", policy...)
	data := alice.dataset(t, "leak-data", map[string]string{name: dataCanary + "\n"}, policy...)
	h.add("the dataset's key", volumeKey(t, "data/leak-data.sealed"))
	h.add("the image's key", volumeKey(t, "images/leak.sealed"))

	j := alice.submit(t, image, data, "-N", "2", "--tier", "C", "-args", name, "-flags", "--env SECRET="+dataCanary)
	for _, node := range []string{"cn1", "cn2"} {
		eventually(t, 30*time.Second, "the application waits on "+node, func() bool {
			return run(t.Context(), node, "root", nil, "pgrep", "-xf", "sleep 7777").code == 0
		})
	}
	for _, node := range []string{"cn1", "cn2"} {
		b, err := os.ReadFile(filepath.Join(onDisk(t, "login", j.dir), "nodes", node, "keys.age"))
		if err != nil {
			t.Fatal(err)
		}
		_, key, err := volume.ReadKey(bytes.NewReader(b), aliceIdentity(t)...)
		if err != nil {
			t.Fatal(err)
		}
		h.add("the outputs' key on "+node, key.Bytes())
	}
	for _, token := range tokensOf(t, j) {
		h.needles = append(h.needles, needle{oneTimeToken, []byte(token)})
	}
	if len(h.needles) != 3+4*5+2 {
		t.Fatalf("%d needles", len(h.needles))
	}
	scripts := 0
	for _, f := range h.search() {
		if f.what == oneTimeToken && slurmsOwn.MatchString(f.where) {
			scripts++
			continue
		}
		t.Errorf("while the job runs: %s in %s", f.what, f.where)
	}
	if scripts < 2 { // on the host of slurmctld, and on the first node
		t.Errorf("tokens were found in %d of Slurm's own copies of the script", scripts)
	}
	provesToFind(t, j)
	for _, node := range []string{"cn1", "cn2"} {
		must(t, node, "root", "pkill", "-USR1", "-f", "runscript")
	}
	if code := j.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, f := range h.search() {
		if f.what != oneTimeToken || !slurmsOwn.MatchString(f.where) {
			t.Errorf("after the job: %s in %s", f.what, f.where)
		}
	}
	nodes, r := j.results()
	if len(nodes) != 2 {
		t.Fatalf("results: %s", r)
	}
	for node, dir := range nodes {
		if got := read(t, dir, name); got != dataCanary+"\n" {
			t.Errorf("%s: the application did not read its input: %q", node, got)
		}
	}
}

// provesToFind puts needles of its own into each kind of place, and fails
// where the search does not find them.
func provesToFind(t *testing.T, j *job) {
	t.Helper()
	h := &haystack{t: t, since: time.Now().Add(-time.Second)}
	canary, name := "PLANTED-"+rand.Text(), "planted-"+rand.Text()
	h.needles = []needle{{"a planted canary", []byte(canary)}, {"a planted name", []byte(name)}}
	h.add("a planted key", []byte(rand.Text()))
	key := h.needles[2]
	var endMarker func()
	plants := []struct {
		where    string
		put, end func()
	}{
		{"login:", func() { write(t, "login", "alice", project+"/alice/planted", "x"+canary) },
			func() { must(t, "login", "alice", "rm", project+"/alice/planted") }},
		{"cn1:", func() { write(t, "cn1", "alice", "/tmp/planted", strings.Repeat("x", 5<<20)+canary) },
			func() { must(t, "cn1", "alice", "rm", "/tmp/planted") }},
		{"cn2:", func() { write(t, "cn2", "root", "/var/lib/slurm/planted", string(key.bytes)) },
			func() { must(t, "cn2", "root", "rm", "/var/lib/slurm/planted") }},
		{"cn2:", func() { write(t, "cn2", "alice", "/dev/shm/"+name, "") }, func() { must(t, "cn2", "alice", "rm", "/dev/shm/"+name) }},
		// The time of a change (ctime) cannot be set back, as that of the content can.
		{"cn1:", func() {
			write(t, "cn1", "alice", "/var/tmp/planted", canary)
			must(t, "cn1", "alice", "touch", "-d", "2001-02-03", "/var/tmp/planted")
		}, func() { must(t, "cn1", "alice", "rm", "/var/tmp/planted") }},
		{"cn1: processes", func() {
			endMarker = background(t, "cn1", "alice", "sh", "-c", "sleep 99 & wait", name)
			eventually(t, 10*time.Second, "a marker process", func() bool {
				return run(t.Context(), "cn1", "root", nil, "pgrep", "-f", name).code == 0
			})
		}, func() { endMarker() }},
		{"scontrol", func() { must(t, "login", "root", "scontrol", "update", "JobId="+j.id, "Comment="+canary) },
			func() { must(t, "login", "root", "scontrol", "update", "JobId="+j.id, "Comment=none") }},
	}
	for i, p := range plants {
		p.put()
		found := h.search()
		p.end()
		ok := false
		for _, f := range found {
			ok = ok || strings.HasPrefix(f.where, p.where)
		}
		if !ok {
			t.Errorf("plant %d, at %s, was not found: %v", i, p.where, found)
		}
	}
}
