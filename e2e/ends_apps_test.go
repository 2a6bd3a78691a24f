package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Applications that do as they like.

// hostileApp names files as no sane person would, puts other things where
// sealbatch writes, and goes while its children still write.
const hostileApp = `cd /sd-container/output
bad=$(printf 'a\nb'); echo newline >"$bad"
bad=$(printf 'x\377\200y'); echo bytes >"$bad"
echo dash >./-rf
echo quotes >"\$(touch x) 'q' \"d\""
long=$(printf '%255s' '' | tr ' ' n); echo long >"$long"
mkdir "$long.d" 2>/dev/null && echo "longer than names can be"
mkdir deep; echo in >"deep/$long"
ln -s /etc/passwd absolute; ln -s ../../../../outside relative
rm -f stdout exit_code sealbatch.log
ln -s /sd-container/output/elsewhere stdout; mkfifo exit_code; mkdir sealbatch.log
set -m # process groups of their own
(sh -c 'trap "" TERM HUP; while :; do echo "daemon of MARK" >>daemon; sleep 0.01; done' &)
(nohup sh -c 'while :; do date >>nohup.log; sleep 0.01; done' >/dev/null 2>&1 &)
while [ ! -s daemon ] || [ ! -s nohup.log ]; do sleep 0.05; done
echo "all of MARK" >all
`

func TestEndOfAHostileApplication(t *testing.T) {
	t.Parallel()
	const mark = "hostile-app"
	data := alice.dataset(t, mark, map[string]string{"run.sh": strings.ReplaceAll(hostileApp, "MARK", mark)})
	j := alice.submit(t, shell(t), data)
	code := j.wait()
	nodes, r := j.results()
	if code != 0 || len(nodes) != 1 || r.code != 0 || !strings.Contains(r.err, "completed, exit code 0; sealed and signed") {
		t.Fatalf("exit code %d, results: %s", code, r)
	}
	for node, dir := range nodes {
		nothingLeft(t, j, node, mark)
		long := strings.Repeat("n", 255)
		for name, want := range map[string]string{
			"a\nb": "newline\n", "x\xff\x80y": "bytes\n", "-rf": "dash\n", `$(touch x) 'q' "d"`: "quotes\n", long: "long\n",
			"deep/" + long: "in\n", "all": "all of " + mark + "\n",
		} {
			if got := read(t, dir, name); got != want {
				t.Errorf("%q holds %q", name, got)
			}
		}
		for name, want := range map[string]string{"absolute": "/etc/passwd", "relative": "../../../../outside",
			"stdout": "/sd-container/output/elsewhere"} {
			if got, err := os.Readlink(filepath.Join(dir, name)); err != nil || got != want {
				t.Errorf("%s leads to %q, %v", name, got, err)
			}
		}
		// The daemon was killed before its output was sealed, wherever it was.
		daemon := read(t, dir, "daemon")
		if line := "daemon of " + mark + "\n"; !strings.HasPrefix(line, strings.ReplaceAll(daemon, line, "")) ||
			!strings.HasPrefix(daemon, line) {
			t.Errorf("the daemon wrote %.100q", daemon)
		}
		if st, err := os.Lstat(filepath.Join(dir, "sealbatch.log")); err != nil || !st.IsDir() {
			t.Errorf("the application's own directory: %v, %v", st, err)
		}
		if strings.Contains(j.log.String(), "newline") || strings.Contains(j.log.String(), "touch x") {
			t.Errorf("the job's log names the application's files:\n%s", j.log)
		}
	}
}

func TestEndWithManyFiles(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "many-files", map[string]string{"run.sh": `cd /sd-container/output
for d in 0 1 2 3 4 5 6 7 8 9; do mkdir $d; cd $d; i=0; while [ $i -lt 5000 ]; do echo $i >f$i; i=$((i+1)); done; cd ..; done
`})
	j := alice.submit(t, shell(t), data)
	if code := j.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	nodes, r := j.results()
	if len(nodes) != 1 || !strings.Contains(r.err, "sealed and signed") {
		t.Fatalf("results: %s", r)
	}
	for _, dir := range nodes {
		files, err := filepath.Glob(dir + "/[0-9]/f*")
		if err != nil || len(files) != 50_000 {
			t.Errorf("%d files came back, %v", len(files), err)
		}
		if got := read(t, dir, "7/f4999"); got != "4999\n" {
			t.Errorf("a file holds %q", got)
		}
	}
}

// TestEndOfScripts: verification scripts that hang or are killed.
func TestEndOfScripts(t *testing.T) {
	t.Parallel()
	hang, killed := alice.scratch()+"/hanging-checks", alice.scratch()+"/killed-checks"
	write(t, "login", "alice", hang+"/10-hang.sh",
		"#!/bin/sh\ntrap '' TERM\necho hangs >/sd-container/output/hangs\nwhile :; do sleep 1; done\n")
	write(t, "login", "alice", killed+"/10-killed.sh", "#!/bin/sh\nkill -SEGV $$\n")
	data := alice.dataset(t, "script-ends", map[string]string{"run.sh": "echo ran >/sd-container/output/ran\n"})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		j := alice.submit(t, shell(t), data, "-i", hang)
		eventually(t, 60*time.Second, "the script hangs", func() bool {
			out, _ := filepath.Glob(onDisk(t, "login", j.dir) + "/nodes/*/output/*")
			return len(out) >= 3 // diriv, the log, its file
		})
		must(t, "login", "alice", "scancel", j.id)
		if code := j.wait(); code == 0 {
			t.Error("exit code 0")
		}
		nodes, r := j.results()
		if len(nodes) != 1 || !strings.Contains(r.err, "cancelled") || !strings.Contains(r.err, "sealed and signed") {
			t.Errorf("results: %s", r)
		}
		for node := range nodes {
			nothingLeft(t, j, node, "hangs")
		}
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		j := alice.submit(t, shell(t), data, "-o", killed)
		if code := j.wait(); code != 246 {
			t.Errorf("exit code %d, want 246", code)
		}
		nodes, r := j.results()
		for _, dir := range nodes {
			if read(t, dir, "ran") != "ran\n" {
				t.Error("the outputs are not what was written")
			}
		}
		if len(nodes) != 1 || !strings.Contains(r.err, "output script") || !strings.Contains(j.log.String(), "139") {
			t.Errorf("results: %s\n%s", r, j.log)
		}
	})
}

func TestArgumentsThatAreNotText(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "not-text", map[string]string{"run.sh": "true\n"})
	r := alice.sb(t, "job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--workdir", alice.scratch(), "-args",
		"/sd-container/input/run.sh \x80\xff")
	if r.code != 2 || !strings.Contains(r.err, "UTF-8") || r.out != "" {
		t.Errorf("%s", r)
	}
}
