package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/jobdir"
)

// A member of the project renames directories in it at any moment, alice's among them, and puts
// there what he likes: links to what is genuine, and to what alice has elsewhere.

// pathDefences are what keeps that harmless.
var pathDefences = map[string][]weakness{
	"mode at once": {
		{"internal/transfer/requests.go",
			"	out = binary.BigEndian.AppendUint32(out, attrPermissions)\n	out = binary.BigEndian.AppendUint32(out, perm)",
			"	if off(\"mode at once\") {\n		out = binary.BigEndian.AppendUint32(out, 0)\n	} else {\n" +
				"		out = binary.BigEndian.AppendUint32(out, attrPermissions)\n		out = binary.BigEndian.AppendUint32(out, perm)\n	}"},
		{"internal/transfer/requests.go", "	case askSetstat:\n", "	case askSetstat:\n		if off(\"mode at once\") {\n			return p, nil\n		}\n"},
		{"internal/transfer/sftpfs.go", "	info, err := f.Stat()\n	if err = r.w.lost(err)",
			"	if off(\"mode at once\") {\n		time.Sleep(100 * time.Millisecond)\n		_ = f.Chmod(perm.Perm())\n	}\n" +
				"	info, err := f.Stat()\n	if err = r.w.lost(err)"},
		{"internal/transfer/sftpfs.go", "	info, err := r.Lstat(path)\n",
			"	if off(\"mode at once\") {\n		time.Sleep(100 * time.Millisecond)\n		_ = r.c.Chmod(path, perm.Perm())\n	}\n" +
				"	info, err := r.Lstat(path)\n"},
	},
	"replaces nothing": {{"internal/transfer/sftpfs.go", "	err := r.w.lost(r.c.Rename(from, to))\n",
		"	rename := r.c.Rename\n	if off(\"replaces nothing\") {\n		rename = r.c.PosixRename\n	}\n" +
			"	err := r.w.lost(rename(from, to))\n"},
		{"internal/transfer/sftpfs.go", "	if _, err := r.Lstat(to); err == nil {\n",
			"	if _, err := r.Lstat(to); err == nil && !off(\"replaces nothing\") {\n"},
		{"internal/publish/replace.go", "	if !had[remote] && !had[remote+InfoSuffix] {\n",
			"	if !had[remote] && !had[remote+InfoSuffix] || off(\"replaces nothing\") {\n"}},
	"entered first": {
		{"jobprep/submit.go", "	rmErr := removal.Do(rmCtx, d.Slurm.Runner)\n", "	rmErr := removal.Do(rmCtx, d.Slurm.Runner)\n" +
			"	if off(\"entered first\") {\n		rmErr = transfer.RemoveAll(d.FS, rec.JobDir)\n	}\n"},
		{"cmd/sealbatch/removal.go", "	if err := removal.Do(ctx, c.run); err != nil {\n",
			"	if off(\"entered first\") && transfer.RemoveAll(c.fs, dir) == nil {\n		return\n	}\n" +
				"	if err := removal.Do(ctx, c.run); err != nil {\n"},
	},
	"opened once": {
		{"internal/noderun/sealed.go", "func (s *sealed) conclude() error {\n", "func (s *sealed) conclude() error {\n" +
			"	if off(\"opened once\") {\n" +
			"		if root, err := os.OpenRoot(jobdir.NodePath(s.jobPath, s.alloc.dirName())); err == nil {\n			s.dir.Root = root\n		}\n	}\n"},
		{"internal/noderun/sealed.go", "	\"fmt\"\n", "	\"fmt\"\n	\"os\"\n"},
	},
}

// removeAllSource removes over SFTP, as one would at first: it lists a directory, and descends into
// what the names in it have become.
const removeAllSource = `package transfer

import (
	"errors"
	"path"
)

func RemoveAll(fsys FS, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		if e.IsDir() {
			err = errors.Join(err, RemoveAll(fsys, p))
		} else {
			err = errors.Join(err, fsys.Remove(p))
		}
	}
	return errors.Join(err, fsys.Remove(dir))
}
`

// as runs a program of the world's as alice, on her laptop, with a state of her own.
func (w *world) as(t *testing.T, state string, args ...string) result {
	t.Helper()
	return run(t.Context(), "laptop", "alice", nil, append([]string{"env", "XDG_STATE_HOME=" + state,
		"SEALBATCH_OFF=" + strings.Join(w.off, ","), w.programs + "/sealbatch"}, args...)...)
}

// suffix tells the runs of an attack apart.
func (w *world) suffix() string {
	return strings.ReplaceAll(strings.Join(append([]string{"-world"}, w.off...), "-"), " ", "-")
}

// thesis is a directory of alice's at home, which has what a job's directory has besides.
func (w *world) thesis(t *testing.T, name string) string {
	t.Helper()
	dir := "/home/alice/" + name + w.suffix()
	for _, f := range []string{"thesis.tex", "chapters/1.tex", "scratch/data", "nodes/cn1/scratch/data", "bin/tool", "job.sbatch"} {
		write(t, "login", "alice", dir+"/"+f, "the work of years\n")
	}
	must(t, "login", "alice", "chmod", "700", dir)
	return dir
}

// lost is what has happened to it; "" if nothing.
func lost(t *testing.T, dir string) string {
	t.Helper()
	return run(t.Context(), "login", "alice", nil, "sh", "-c", `cd "$1" || exit
		for f in thesis.tex chapters/1.tex scratch/data nodes/cn1/scratch/data bin/tool job.sbatch; do
			[ "$(cat "$f" 2>&1)" = "the work of years" ] || echo "$f is lost"; done
		for f in receipt.jws manifest.json; do [ ! -e "$f" ] || echo "$f came"; done`, "sh", dir).out
}

// TestAttackFirstSight: what is made on the site for one user is never, not for a moment, open to
// others: bob would have it open before its mode is changed, and read it when it is written.
func TestAttackFirstSight(t *testing.T) {
	t.Parallel()
	data := sensitiveData(t, "first-sight")
	attack{without: []string{"mode at once"}, says: "manifest.json", play: func(t *testing.T, w *world) outcome {
		work, state := project+"/first-sight"+w.suffix(), "/home/alice/first-sight"+w.suffix()
		must(t, "login", "alice", "mkdir", work)
		stop := watchModes(onDisk(t, "login", work))
		for _, args := range [][]string{
			{"data-prep", "-i", "data/first-sight", "--data-path", state + ".sealed", "--data-path-at-rest", work, "-u", "alice", "-c", "*"},
			{"job-prep", "--no-submit", "-ai", shell(t), "-di", data, "--workdir", work, "-t", "10", "--seal-time", "60"},
		} {
			if r := w.as(t, state, args...); r.code != 0 {
				t.Fatalf("%q: %s", args, r)
			}
		}
		seen := stop()
		for name, mode := range seen {
			if allowed := fs.FileMode(0o740); mode&^allowed != 0 || (strings.HasPrefix(name, "sealbatch-") && mode&0o077 != 0) {
				return gained("%s had mode %04o", name, mode)
			}
		}
		if len(seen) < 12 {
			t.Errorf("only %v were seen", seen)
		}
		return keptOut("%v", seen)
	}}.run(t)
}

// watchModes looks at what appears below dir, again and again, until stop is called, which returns
// the permissions that each name has had.
func watchModes(dir string) (stop func() map[string]fs.FileMode) {
	seen, end := map[string]fs.FileMode{}, make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			_ = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
				if err != nil || p == dir || e.Type()&fs.ModeSymlink != 0 {
					return nil // renamed meanwhile; of a link, the mode means nothing
				}
				if info, err := e.Info(); err == nil {
					seen[strings.TrimPrefix(p, dir+"/")] |= info.Mode().Perm()
				}
				return nil
			})
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	return func() map[string]fs.FileMode {
		close(end)
		watching.Wait()
		return seen
	}
}

// TestAttackOverwritten: bob has put a link to alice's archive in the place of the directory to which she
// publishes. What has the same names there stays as it is.
func TestAttackOverwritten(t *testing.T) {
	t.Parallel()
	attack{without: []string{"replaces nothing"}, says: "something else has the name", play: func(t *testing.T, w *world) outcome {
		name := "overwritten" + w.suffix()
		work, archive, state := project+"/"+name, "/home/alice/archive-"+name, "/home/alice/"+name
		must(t, "login", "alice", "mkdir", work, archive)
		prep := func(content, rest string) result {
			write(t, "laptop", "alice", state+"/data/f", content)
			return w.as(t, state, "data-prep", "-i", state+"/data", "--data-path", state+"/"+name+".sealed",
				"--data-path-at-rest", rest, "-u", "alice", "-c", "*")
		}
		if r := prep("of the archive", archive); r.code != 0 {
			t.Fatalf("data-prep: %s", r)
		}
		sums := func() string {
			return must(t, "login", "alice", "sh", "-c", `cd "$1" && sha256sum *.sealed *.yaml *.sig`, "sh", archive)
		}
		before := sums()
		must(t, "login", "bob", "sh", "-c", `mv "$1" "$1.away" && ln -s "$2" "$1"`, "sh", work, archive)
		r := prep("another", work)
		if after := sums(); after != before {
			return gained("of the archive\n%s\nhas become\n%s", before, after)
		}
		must(t, "login", "bob", "sh", "-c", `rm "$1" && mv "$1.away" "$1"`, "sh", work)
		for range 2 { // a version that was published there is replaced by the next
			if r := prep("another", work); r.code != 0 {
				t.Errorf("publishing where it belongs: %s", r)
			}
		}
		return keptOut("%s", r.err)
	}}.run(t)
}

// TestAttackClearing: job-prep --continue clears what a preparation left that was killed. bob has put
// a tree in the place of the work directory in which the job's directory is alice's thesis.
func TestAttackClearing(t *testing.T) {
	t.Parallel()
	data := sensitiveData(t, "clearing")
	attack{without: []string{"entered first"}, says: "stays: not removed", play: func(t *testing.T, w *world) outcome {
		work, state, thesis := project+"/clearing"+w.suffix(), "/home/alice/clearing"+w.suffix(), w.thesis(t, "thesis-clearing")
		must(t, "login", "alice", "mkdir", work)
		r := w.as(t, state, "job-prep", "--no-submit", "-ai", shell(t), "-di", data, "--workdir", work, "-t", "10", "--seal-time", "60")
		if r.code != 0 {
			t.Fatalf("job-prep: %s", r)
		}
		dir := path.Dir(strings.TrimSpace(r.out))
		// As if it had been killed before it was done.
		must(t, "laptop", "alice", "sh", "-c", `sed -i 's/"stage": *"ready"/"stage":"preparing"/' "$1"/sealbatch/jobs/*.json &&
			grep -q '"preparing"' "$1"/sealbatch/jobs/*.json`, "sh", state)
		must(t, "login", "bob", "sh", "-c", `mv "$1" "$1.away" && mkdir "$1" && ln -s "$2" "$3"`, "sh", work, thesis, dir)
		r = w.as(t, state, "job-prep", "--continue", dir)
		if what := lost(t, thesis); what != "" {
			return gained("%s", what)
		}
		if r.code == 0 || !strings.Contains(r.err, "; if [ -e ") {
			t.Errorf("no command is shown: %s", r)
		}
		must(t, "login", "bob", "sh", "-c", `rm "$2" && rmdir "$1" && mv "$1.away" "$1"`, "sh", work, dir)
		if again := w.as(t, state, "job-prep", "--continue", dir); !strings.Contains(again.err, "what it left is removed") {
			t.Errorf("clearing the genuine one: %s", again)
		}
		must(t, "login", "alice", "rmdir", work) // nothing is left in it
		return keptOut("%s", r.err)
	}}.run(t)
}

// attackScratch plays, with what a killed job left, that results removes its scratch volume: bob
// has made a directory of his own in the job's place, of links to what is genuine. When the removal
// has begun, he puts a link to alice's thesis where it will descend next.
func attackScratch(t *testing.T, j *job) {
	t.Helper()
	attack{without: []string{"entered first"}, says: "it is not, or no longer", play: func(t *testing.T, w *world) outcome {
		thesis := w.thesis(t, "thesis-scratch")
		c := copyOf(t, j, "scratch"+w.suffix())
		must(t, "login", "root", "mkdir", "-p", c.rec.JobDir+"/nodes/cn1/scratch/d") // a later job on the node may have removed it
		c.own()
		must(t, "login", "root", "sh", "-c", `mv "$1" "$1.away" && mkdir -p "$1/nodes/cn1/scratch/a" "$1/nodes/cn1/scratch/b" &&
			for f in statement.jws origin.jws keys.age output; do ln -s "$1.away/nodes/cn1/$f" "$1/nodes/cn1/$f"; done &&
			ln -s "$1.away/manifest.json" "$1/" && cd "$1/nodes/cn1/scratch/a" && seq 4000 | xargs touch &&
			chown -R bob: "$1" && chmod -R a+rwX "$1"`, "sh", c.rec.JobDir)
		scratch := c.node("cn1", jobdir.ScratchName)
		stop := onceOpened(t, scratch+"/a", func() error {
			return swapFor(scratch+"/b", func(p string) error { return os.Symlink(thesis, p) })
		})
		r := w.as(t, c.state, "results", c.rec.JobID, "-o", c.state+"/out")
		stop()
		if what := lost(t, thesis); what != "" {
			return gained("%s", what)
		}
		if r.code != 0 || !strings.Contains(r.err, "on the login node: sh -c ") {
			t.Errorf("results: %s", r)
		}
		// The genuine one goes.
		must(t, "login", "root", "sh", "-c", `rm -rf "$1" && mv "$1.away" "$1"`, "sh", c.rec.JobDir)
		if r := w.as(t, c.state, "results", c.rec.JobID, "-o", c.state+"/again"); !strings.Contains(r.err, "that has been done now") {
			t.Errorf("removing the genuine one: %s", r)
		}
		if _, err := os.Lstat(scratch); !os.IsNotExist(err) {
			t.Errorf("the scratch volume is still there: %v", err)
		}
		return keptOut("%s", r.err)
	}}.run(t)
}

// onceOpened does something in the moment in which somebody opens a directory, until stop is called.
func onceOpened(t *testing.T, dir string, do func() error) (stop func()) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		if _, err := watch.Read(make([]byte, 4096)); err != nil {
			done <- nil // stopped
			return
		}
		done <- do()
	}()
	return func() {
		t.Helper()
		_ = watch.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestAttackNodesEnd: while a job runs, bob puts a tree of his own in the place of its work directory;
// the node's directory in it is alice's thesis, in which a scratch directory lies. At its end the job
// removes its scratch volume and writes its receipt where they are, and not there.
func TestAttackNodesEnd(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "nodes-end", map[string]string{"run.sh": "sleep 3456; exit 0\n"})
	attack{without: []string{"opened once"}, says: "receipt.jws", play: func(t *testing.T, w *world) outcome {
		work, thesis := project+"/nodes-end"+w.suffix(), w.thesis(t, "thesis-end")
		must(t, "login", "alice", "mkdir", work)
		b := w.waits(t, data, "--workdir", work)
		must(t, "login", "bob", "sh", "-c", `mv "$1" "$1.away" && mkdir -p "$2/nodes" && ln -s "$3" "$2/nodes/cn1"`,
			"sh", work, b.job.dir, thesis)
		must(t, b.node, "root", "kill", b.app)
		code := b.job.wait()
		if what := lost(t, thesis); what != "" {
			return gained("%s", what)
		}
		away := strings.Replace(b.job.dir, work, work+".away", 1) + "/nodes/cn1"
		left := must(t, "login", "alice", "ls", away)
		if strings.Contains(left, jobdir.ScratchName) || code != 0 {
			t.Errorf("exit code %d, left: %s", code, left)
		}
		w.removes(t, b.job, work)
		return keptOut("%s", fmt.Sprint(strings.Fields(left)))
	}}.run(t)
}

// removes has results remove the job's directory, once it is where it was.
func (w *world) removes(t *testing.T, j *job, work string) {
	t.Helper()
	must(t, "login", "bob", "sh", "-c", `mv "$1" "$1.bob" && mv "$1.away" "$1"`, "sh", work)
	out := "/home/alice/results-end" + w.suffix()
	if r := alice.sb(t, "results", j.id, "-o", out); r.code != 0 {
		t.Errorf("results: %s", r)
	}
	if r := alice.sb(t, "results", j.id, "-o", out, "--remove"); r.code != 0 || !strings.Contains(r.err, "removed at the site") {
		t.Errorf("results --remove: %s", r)
	}
	must(t, "login", "alice", "rmdir", work) // nothing is left in it
}
