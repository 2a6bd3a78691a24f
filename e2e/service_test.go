package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
)

// ownService is a key service of a test's own on host keys, which it may kill,
// with its data on a small file system, which it may fill. A verifier of its
// own is enrolled there, and alice's laptop has a configuration for it.
type ownService struct {
	dir, port, pid, conf string
	verifierPID          string // of its own verifier, on login
	image, data          string // info files of alice's, with keys deposited there
}

const (
	dataDir         = "/srv/own/data"
	verifierDir     = "/var/log/slurm/own-verifier"
	ownVerifierPort = "8554"
)

func newOwnService(t *testing.T) *ownService {
	t.Helper()
	s := &ownService{dir: path.Dir(dataDir), port: "8553", conf: "/home/alice/own.conf"}
	must(t, "keys", "root", "bash", "-c", `set -e; cd /etc/sealbatch
		sealbatch serve --init "$1" --host keys --host 10.77.0.6 --listen "0.0.0.0:$2"
		cp accounts verifier-ca.crt "$1/"; sed -n '/^\[cluster/,$p' server.conf | sed "s/:8444/:$3/" >>"$1/server.conf"
		cp -a "$1/data" "$1/was"; mount -t tmpfs -o size=4m,mode=0700 own "$1/data"; cp -a "$1/was/." "$1/data/"`, "bash",
		s.dir, s.port, ownVerifierPort)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the service: %s", run(context.Background(), "keys", "root", nil, "tail", "-n", "40", s.dir+"/log").out)
		}
		run(context.Background(), "keys", "root", nil, "sh", "-c", "kill -9 "+s.pid+"; umount -l "+dataDir)
	})
	write(t, "laptop", "alice", "/home/alice/own-ca.pem", must(t, "keys", "root", "cat", s.dir+"/ca.crt")+"\n")
	write(t, "laptop", "alice", s.conf, fmt.Sprintf("[hpcs-server]\nurl = https://keys:%s\nca-cert = /home/alice/own-ca.pem\n"+
		"[supercomputer]\naddress = login\nusername = alice\n", s.port))
	must(t, "login", "slurm", "sh", "-c", `cp -r /etc/sealbatch "$1" && cd "$1" && echo "$4" >own-ca.pem &&
		sed -i "s,^listen = .*,listen = 0.0.0.0:$2,; s,^service-url = .*,service-url = https://keys:$3,
			s,^service-ca = .*,service-ca = own-ca.pem," verifier.conf`,
		"sh", verifierDir, ownVerifierPort, s.port, must(t, "keys", "root", "cat", s.dir+"/ca.crt"))
	t.Cleanup(func() {
		run(context.Background(), "login", "slurm", nil, "sh", "-c", "kill -9 "+s.verifierPID+"; rm -r "+verifierDir)
	})
	s.start(t)
	s.startVerifier(t)
	s.image = alice.image(t, testImage(t, "sh.sif"), "own-image", "-u", "alice", "-c", "*", "--config", s.conf)
	s.data = alice.dataset(t, "own", simple, "-u", "alice", "-c", "*", "--config", s.conf)
	return s
}

func (s *ownService) start(t *testing.T) {
	t.Helper()
	out := must(t, "keys", "root", "bash", "-c",
		`sealbatch serve --config "$1/server.conf" >>"$1/log" 2>&1 </dev/null & echo $!`, "bash", s.dir)
	s.pid = out
	eventually(t, 30*time.Second, "the key service listens", func() bool {
		return run(t.Context(), "keys", "root", nil, "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+s.port).code == 0
	})
}

func (s *ownService) startVerifier(t *testing.T) {
	t.Helper()
	s.verifierPID = must(t, "login", "slurm", "sh", "-c",
		`sealbatch verifier --config "$1/verifier.conf" >>"$1/log" 2>&1 </dev/null & echo $!`, "sh", verifierDir)
	eventually(t, 30*time.Second, "the verifier listens", func() bool {
		return run(t.Context(), "login", "slurm", nil, "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+ownVerifierPort).code == 0
	})
}

// kill ends it as a crash does.
func (s *ownService) kill(t *testing.T) {
	t.Helper()
	must(t, "keys", "root", "kill", "-9", s.pid)
}

// prepared is a job whose manifest is registered, and which is not submitted.
func (s *ownService) prepared(t *testing.T) (script, digest string) {
	t.Helper()
	script = alice.mustSB(t, "job-prep", "-ai", s.image, "-di", s.data, "-t", "10", "--seal-time", "60", "--config", s.conf,
		"--workdir", alice.scratch(), "-args", "/sd-container/input/run.sh", "--no-submit")
	m := digestRE.FindStringSubmatch(must(t, "login", "alice", "cat", script))
	if m == nil {
		t.Fatalf("%s names no manifest digest", script)
	}
	return script, m[1]
}

// sbatch submits a prepared job, waits until a file beside it says what, and
// returns how to wait for its end.
func sbatch(t *testing.T, script, what string) (end func() result) {
	t.Helper()
	done := make(chan result, 1)
	go func() { done <- run(t.Context(), "login", "alice", nil, "sbatch", "--parsable", "--wait", script) }()
	if what != "" {
		eventually(t, 90*time.Second, "the job says "+what, func() bool {
			return run(t.Context(), "login", "alice", nil, "grep", "-rqs", what, path.Dir(script)).code == 0
		})
	}
	return func() result { t.Helper(); return <-done }
}

// isReady waits until /readyz says why the service is not ready; "" for one that is.
func (s *ownService) isReady(t *testing.T, why string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return place{"laptop", "mallory"}.dial(ctx, "keys:"+s.port)
		}}}
	eventually(t, 30*time.Second, "/readyz says: "+why, func() bool {
		res, err := c.Get("https://keys/readyz")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return err == nil && (res.StatusCode == http.StatusOK) == (why == "") && strings.Contains(string(b), why)
	})
}

// releases verifies the log and returns what happened to a manifest's releases.
func (s *ownService) releases(t *testing.T, digest string) map[string]int {
	t.Helper()
	out := must(t, "keys", "root", "sh", "-c",
		`sealbatch audit verify "$1/data/audit.log" --key "$(cat "$1/statement.pub")" >&2 && cat "$1/data/audit.log"`, "sh", s.dir)
	got := map[string]int{}
	for line := range strings.Lines(out) {
		var l struct{ Entry audit.Event }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if l.Entry.Event == "release" && l.Entry.Manifest == digest {
			got[l.Entry.Outcome]++
		}
	}
	return got
}

// TestServiceInTrouble kills the key service, fills the disk under its audit
// log and floods it, while people prepare data and jobs want their keys.
func TestServiceInTrouble(t *testing.T) {
	t.Parallel()
	s := newOwnService(t)
	t.Run("killed while a job waits for its keys", func(t *testing.T) {
		script, digest := s.prepared(t)
		s.kill(t)
		end := sbatch(t, script, "trying again")
		s.start(t)
		if r := end(); r.code != 0 {
			t.Errorf("the job: %s", r)
		}
		if got := s.releases(t, digest); got["released"] != 1 {
			t.Errorf("releases: %v", got)
		}
	})
	t.Run("verifier killed while a job waits for its keys", func(t *testing.T) {
		script, digest := s.prepared(t)
		must(t, "login", "slurm", "kill", "-9", s.verifierPID)
		end := sbatch(t, script, "the cluster's verifier cannot be reached")
		if got := s.releases(t, digest); len(got) != 0 {
			t.Errorf("releases without a verifier: %v", got)
		}
		s.startVerifier(t)
		if r := end(); r.code != 0 {
			t.Errorf("the job: %s", r)
		}
		if got := s.releases(t, digest); got["released"] != 1 {
			t.Errorf("releases: %v", got)
		}
	})
	t.Run("the account is removed while a job waits", func(t *testing.T) {
		script, digest := s.prepared(t)
		edit := func(script string) { must(t, "keys", "root", "sed", "-i", script, s.dir+"/accounts") }
		edit("s/^alice /#alice /")
		if r := sbatch(t, script, "is not enrolled any more")(); r.code == 0 {
			t.Errorf("the job: %s", r)
		}
		if got := s.releases(t, digest); got["released"] != 0 || got["refused"] == 0 {
			t.Errorf("releases: %v", got)
		}
		edit("s/^#alice /alice /")
		alice.mustSB(t, "policy", "list", "--config", s.conf)
		edit("s/^bob ssh-ed25519/bob ssh-ed25591/")
		s.isReady(t, "accounts: the file cannot be read as a whole")
		if r := run(t.Context(), "keys", "root", nil, "sealbatch", "serve", "--config", s.dir+"/server.conf", "--check"); r.code != 3 ||
			!strings.Contains(r.out, "NO  accounts: ") {
			t.Errorf("serve --check: %s", r)
		}
		alice.mustSB(t, "policy", "list", "--config", s.conf)
		edit("s/ssh-ed25591/ssh-ed25519/")
		s.isReady(t, "")
	})
	t.Run("killed while data is prepared", func(t *testing.T) {
		s.kill(t)
		done := make(chan result, 1)
		go func() {
			done <- run(t.Context(), "laptop", "alice", nil, "sh", "-c", `sealbatch data-prep -i data/own --data-path data/own2.sealed \
				--data-path-at-rest "$1" -u alice -c "*" --config "$2" 2>prep.log || { cat prep.log; exit 1; }`, "sh", alice.scratch(), s.conf)
		}()
		eventually(t, 60*time.Second, "data-prep tries again", func() bool {
			return run(t.Context(), "laptop", "alice", nil, "grep", "-qs", "trying again", "prep.log").code == 0
		})
		s.start(t)
		if r := <-done; r.code != 0 {
			t.Errorf("data-prep: %s", r)
		}
	})
	t.Run("killed between upload and deposit", func(t *testing.T) {
		must(t, "laptop", "alice", "sh", "-c", "mkdir -p data/own3 && head -c 6000000 /dev/urandom >data/own3/x")
		r := newRelay(t, "laptop", 3_000_000)
		args := []string{"data-prep", "--config", r.conf(t, s.conf, "own3"), "-i", "data/own3", "--data-path", "data/own3.sealed",
			"--data-path-at-rest", alice.scratch(), "-u", "alice", "-c", "*"}
		b := launch(t, args...)
		r.waitHeld(t)
		s.kill(t)
		r.goOn()
		code := b.wait()
		told(t, result{err: b.out.String(), code: code}, 1, "deposit the key: key service",
			"the sealed file has arrived; when the key service answers, the same command goes on where this one stopped")
		if got := onSite(t, alice.scratch(), "own3.sealed"); len(got) != 1 || !strings.HasSuffix(got[0], ".partial") {
			t.Errorf("published without a key: %q", got)
		}
		s.start(t)
		if again := alice.sb(t, args...); again.code != 0 || !strings.Contains(again.err, "going on with the sealed file of an earlier run") {
			t.Errorf("again: %s", again)
		}
		arrivedWhole(t, "own3")
		if n := r.bytes(); n > 8_000_000 {
			t.Errorf("%d bytes were sent: the sealed file went there twice", n)
		}
		if list := alice.mustSB(t, "policy", "list", "--config", s.conf); strings.Count(list, "own3.sealed") != 1 {
			t.Errorf("deposited: %s", list)
		}
	})
	t.Run("disk full under the audit log", func(t *testing.T) {
		script, digest := s.prepared(t)
		must(t, "keys", "root", "sh", "-c", "cat /dev/zero >"+dataDir+"/fill 2>/dev/null || test -s "+dataDir+"/fill")
		// The last page of the log may still have room for some lines.
		eventually(t, 60*time.Second, "a call is refused", func() bool {
			r := alice.sb(t, "policy", "list", "--config", s.conf)
			return r.code != 0 && strings.Contains(r.err, "cannot write its audit log")
		})
		end := sbatch(t, script, "cannot write its audit log")
		s.isReady(t, "audit log and store: they cannot be written")
		if got := s.releases(t, digest); got["released"] != 0 {
			t.Errorf("releases on a full disk: %v", got)
		}
		must(t, "keys", "root", "rm", dataDir+"/fill")
		s.isReady(t, "")
		if r := end(); r.code != 0 {
			t.Errorf("the job, once there was room: %s", r)
		}
		if got := s.releases(t, digest); got["released"] != 1 {
			t.Errorf("releases: %v", got)
		}
	})
	t.Run("started on a read-only file system", func(t *testing.T) {
		s.kill(t)
		// What was open for writing is closed when the process is gone.
		eventually(t, 30*time.Second, "the data is read-only", func() bool {
			return run(t.Context(), "keys", "root", nil, "mount", "-o", "remount,ro", dataDir).code == 0
		})
		if r := run(t.Context(), "keys", "root", nil, "sealbatch", "serve", "--config", s.dir+"/server.conf"); r.code == 0 ||
			!strings.Contains(r.err, "read-only file system") || !strings.Contains(r.err, dataDir) {
			t.Errorf("serve: %s", r)
		}
		must(t, "keys", "root", "mount", "-o", "remount,rw", dataDir)
		s.start(t)
		alice.mustSB(t, "policy", "list", "--config", s.conf)
	})
	t.Run("flooded with connections", func(t *testing.T) {
		script, digest := s.prepared(t)
		for _, from := range []string{"cn1", "cn2", "laptop"} {
			background(t, from, "mallory", "bash", "-c", // each left at the handshake
				`ulimit -n 4000; n=0; while [ $n -lt 3000 ] && exec {fd}<>"/dev/tcp/10.77.0.6/$1"; do n=$((n+1)); done; sleep 600`, "bash", s.port)
		}
		open := func() int {
			n, err := strconv.Atoi(must(t, "keys", "root", "sh", "-c", "ls /proc/"+s.pid+"/fd | wc -l"))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		most := 0
		eventually(t, 60*time.Second, "the service has as many connections as it takes",
			func() bool { most = max(most, open()); return most > 3000 })
		if r := sbatch(t, script, "")(); r.code != 0 {
			t.Errorf("an honest job: %s", r)
		}
		most = max(most, open())
		kib, err := strconv.Atoi(must(t, "keys", "root", "sh", "-c", "awk '/VmHWM/ {print $2}' /proc/"+s.pid+"/status"))
		if err != nil || kib > 400_000 || most > 4096+64 {
			t.Errorf("the service had %d descriptors and %d KiB, %v", most, kib, err)
		}
		t.Logf("%d descriptors, %d KiB at most", most, kib)
		if got := s.releases(t, digest); got["released"] != 1 {
			t.Errorf("releases: %v", got)
		}
	})
	t.Run("log and store put back together", func(t *testing.T) {
		must(t, "keys", "root", "cp", "-a", dataDir, s.dir+"/older")
		head := alice.mustSB(t, "audit", "head", "--config", s.conf)
		s.kill(t)
		must(t, "keys", "root", "sh", "-c", "cp -a "+s.dir+"/older/. "+dataDir+"/")
		write(t, "keys", "root", s.dir+"/kept", head)
		verify := `sealbatch audit verify "$1/data/audit.log" --key "$(cat "$1/statement.pub")" `
		if r := run(t.Context(), "keys", "root", nil, "sh", "-c", verify, "sh", s.dir); r.code != 0 {
			t.Errorf("control, without the kept head: %s", r)
		}
		if r := run(t.Context(), "keys", "root", nil, "sh", "-c", verify+`--head "$1/kept"`, "sh", s.dir); r.code != 7 ||
			!strings.Contains(r.err, "rolled back") {
			t.Errorf("with the kept head: %s", r)
		}
		// The log cut alone: the service does not start.
		must(t, "keys", "root", "sed", "-i", "$d", dataDir+"/audit.log")
		if r := run(t.Context(), "keys", "root", nil, "sealbatch", "serve", "--config",
			s.dir+"/server.conf"); r.code == 0 || !strings.Contains(r.err, "cut") {
			t.Errorf("serve with a log that was cut: %s", r)
		}
	})
}
