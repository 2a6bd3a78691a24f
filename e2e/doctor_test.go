package e2e

import (
	"strings"
	"testing"
	"time"
)

// says checks each line that a diagnosis has to have.
func says(t *testing.T, r result, code int, lines ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for _, l := range lines {
		if !strings.Contains(r.out+r.err, l) {
			t.Errorf("no line %q in\n%s", l, r)
		}
	}
	if t.Failed() {
		t.Logf("%s", r)
	}
}

// On compute nodes each mount mode is tried with a container that writes: on cn1 all
// work, on cn3 the first does not.
func TestDoctorOnNodes(t *testing.T) {
	t.Parallel()
	at := alice.scratch() + "/doctor"
	must(t, "login", "alice", "sh", "-c", `mkdir -p "$1" && cp /opt/sealbatch/bin/sealbatch /opt/sealbatch/bin/gocryptfs "$1"`, "sh", at)
	ca := must(t, "laptop", "alice", "cat", "/etc/sealbatch-keys-ca.pem")
	key := must(t, "laptop", "alice", "cat", ".ssh/id_ed25519")
	const conf = "/home/alice/doctor-node" // not in the project's directory, where bob could exchange it
	write(t, "login", "alice", conf+"/ca.pem", ca+"\n")
	write(t, "login", "alice", conf+"/key", key+"\n")
	must(t, "login", "alice", "chmod", "600", conf+"/key")
	const plain = "[hpcs-server]\nurl = https://keys:8443\nca-cert = " + conf + "/ca.pem\n[identity]\nssh-key = " + conf + "/key\n" +
		"[supercomputer]\naddress = login\nusername = alice\n"
	write(t, "login", "alice", conf+"/client.conf", plain)
	must(t, "login", "alice", "cp", "-r", conf, at+"/conf")
	write(t, "login", "alice", conf+"/setup.conf", plain+"setup =\n    export TMPDIR="+at+" SLURM_TMPDIR=/var/tmp\n")
	write(t, "login", "alice", conf+"/elsewhere.conf", plain+"setup =\n    export TMPDIR="+at+"\n")
	const works = ": a container wrote to an encrypted volume, and it was read back\n"
	const tmp = "ok  directory /tmp: programs run there"
	common := []string{"ok  /dev/fuse: ",
		"ok  container runtime: /usr/bin/apptainer, apptainer version ",
		"ok  mounts by fusermount" + works, "ok  mounts by runtime" + works, "ok  MUNGE: ",
		"ok  no network: containers get none where an owner demands it, mounts by "}
	for name, c := range map[string]struct {
		flags []string
		lines []string
	}{
		"cn1": {[]string{"-w", "cn1"}, []string{tmp, "ok  mounts by namespace" + works, "--  key service: not tried: "}},
		"cn3": {noUserNS, []string{tmp, "--  mounts by namespace: does not work: private namespaces are not available here: ",
			"fix: the site may allow user namespaces: sysctl user.max_user_namespaces"}},
		"configured": {[]string{"-w", "cn1", at + "/sealbatch", "doctor", "--node", "--config", conf + "/client.conf"},
			[]string{tmp, "ok  key service: https://keys:8443 answers from here",
				"ok  verifier of cluster testcluster: answers; its certificate is good until ", "ok  clock: "}},
		"others' place": {[]string{"-w", "cn1", at + "/sealbatch", "doctor", "--node", "--config", at + "/conf/client.conf"},
			[]string{tmp, "--  key service: not tried: configuration error: " + at + "/conf/client.conf is not to be trusted: ",
				"fix: chmod go-w /scratch/project_1\n"}},
		"with setup": {[]string{"-w", "cn1", at + "/sealbatch", "doctor", "--node", "--config", conf + "/setup.conf"},
			[]string{"ok  directory /var/tmp: programs run there", "--  directory " + at + ": jobs pass it over: others could exchange"}},
		"with setup that exports scratch": {[]string{"-w", "cn1", at + "/sealbatch", "doctor", "--node", "--config", conf + "/elsewhere.conf"},
			[]string{"--  directory " + at + ": jobs pass it over: others could exchange", tmp}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			argv := append([]string{"srun"}, c.flags...)
			if len(c.flags) < 3 {
				argv = append(argv, at+"/sealbatch", "doctor", "--node")
			}
			says(t, run(t.Context(), "login", "alice", nil, argv...), 0, append(common, c.lines...)...)
		})
	}
	t.Run("nothing works", func(t *testing.T) {
		t.Parallel()
		// No runtime: nothing else to try with.
		r := run(t.Context(), "login", "alice", nil, "srun", "-w", "cn1", "env", "PATH=/nowhere", at+"/sealbatch", "doctor", "--node")
		says(t, r, 1, "NO  container runtime: no container runtime on this node",
			"fix: name its module in [supercomputer] setup", "error: 1 thing keeps jobs from running")
	})
}

// TestDoctorOnIllNodes: nodes on which something is missing, made by hiding it.
func TestDoctorOnIllNodes(t *testing.T) {
	t.Parallel()
	at := alice.scratch() + "/ill"
	must(t, "login", "alice", "sh", "-c", `mkdir -p "$1" && cp /opt/sealbatch/bin/sealbatch /opt/sealbatch/bin/gocryptfs "$1"`, "sh", at)
	const asAlice = "exec setpriv --reuid=alice --regid=alice --init-groups --reset-env "
	for name, c := range map[string]struct {
		node, hide string
		code       int
		lines      []string
	}{
		"noexec everywhere": {"cn1", "for d in /tmp /var/tmp /dev/shm; do [ -d $d ] && mount -t tmpfs -o noexec,mode=1777 none $d; done", 1,
			[]string{"--  directory /tmp: jobs pass it over: programs cannot be run there (noexec)", "NO  node-local directory: none of ",
				"fix: set TMPDIR in [supercomputer] setup to a directory of the node that is not mounted noexec"}},
		"no fusermount3": {"cn1", "mount --bind /dev/null /usr/bin/fusermount3", 0,
			[]string{"ok  mounts by namespace", "--  mounts by fusermount: does not work: ", "fix: the site may install fusermount3 set-uid root"}},
		"no mode": {"cn3", "mount --bind /dev/null /usr/bin/fusermount3", 1,
			[]string{"--  mounts by namespace: does not work: ", "--  mounts by fusermount: does not work: ",
				"--  mounts by runtime: does not work: ",
				"NO  mounts: no mount mode works here", "fix: one of the three above"}},
		// Where nobody can make one, the container is not started: what demands it does not run.
		"no network namespaces": {"cn1",
			"unshare -U --map-users=all --map-groups=all --keep-caps sh -c 'echo 0 >/proc/sys/user/max_net_namespaces; " +
				asAlice + at + "/sealbatch doctor --node'; exit", 0,
			[]string{"ok  mounts by namespace", "--  no network, mounts by namespace: does not work: the container ended with exit code ",
				"network namespace", "fix: the site may allow network namespaces: sysctl user.max_net_namespaces"}},
		"no /dev/fuse": {"cn1", "mount --bind /etc/shadow /dev/fuse", 1,
			[]string{"NO  /dev/fuse: ", "fix: the site has to load the module fuse", "error: 1 thing keeps jobs from running"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			says(t, run(t.Context(), c.node, "root", nil, "unshare", "-m", "sh", "-c",
				c.hide+"; "+asAlice+at+"/sealbatch doctor --node"), c.code, c.lines...)
		})
	}
}

// TestDoctorClock: the key service's clock is an hour ahead.
func TestDoctorClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.forward(t, time.Hour)
	write(t, "laptop", "alice", "doctor-clock.conf",
		strings.Replace(must(t, "laptop", "alice", "cat", ".config/sealbatch/client.conf"), "keys:8443", w.keys.address, 1)+"\n")
	says(t, alice.sb(t, "doctor", "--config", "doctor-clock.conf"), 1, "NO  clock: this machine's is off by -1h0m",
		"fix: set it (NTP)", "NO  account: ")
}

func TestDoctorAtHome(t *testing.T) {
	t.Parallel()
	conf := must(t, "laptop", "alice", "cat", ".config/sealbatch/client.conf") + "\n"
	for name, c := range map[string]struct {
		conf  string
		code  int
		lines []string
	}{
		"well": {conf + "[job]\nworkdir = " + alice.scratch() + "\n", 0, []string{
			"ok  configuration: ", "ok  account key: ", "ok  key service: https://keys:8443 is ",
			"ok  key service's certificate: answers; its certificate is good until ",
			"ok  clock: ", "ok  account: the key service knows this key",
			"ok  verifier of cluster testcluster: https://login:8444, good for tier B2",
			"ok  site: login: logged in, SFTP answers", "ok  Slurm: slurm-wlm ", "ok  workdir: site:" + alice.scratch() + " can be written to",
			"ok  workdir: site:/scratch/project_1 can be changed by its group"}},
		"ill": {strings.Replace(conf, "keys:8443", "keys:1", 1) + "[job]\nworkdir = /scratch/none\n", 1, []string{
			"NO  key service: ", "NO  workdir: site:/scratch/none: ", "fix: make it at the site", "error: 2 things keep jobs from running"}},
		"a mode unknown, no sbatch": {strings.Replace(conf, "[supercomputer]",
			"[supercomputer]\nmounts = 2\nslurm-bin = /nowhere", 1), 1, []string{
			`NO  [supercomputer] mounts: "2" is not a mount mode: there are auto, namespace, fusermount, runtime`,
			"NO  Slurm: ", "fix: name the directory of Slurm's commands"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := "/home/alice/doctor-" + strings.Fields(name)[0] + ".conf"
			write(t, "laptop", "alice", path, c.conf)
			says(t, alice.sb(t, "doctor", "--config", path), c.code, c.lines...)
		})
	}
	t.Run("unknown host key", func(t *testing.T) {
		t.Parallel()
		says(t, mallory.sb(t, "doctor"), 1, "ok  account: ", "NO  site: ", "    fix: ")
	})
}
