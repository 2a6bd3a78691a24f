package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// site is what an operator and a user have beside the pod.
type site struct {
	dir, accounts string
	group         int               // of the pod's volumes
	dirs          map[string]string // volumes
}

// newSite makes keys as docs/deploying.md says, a user with an SSH key, and the volumes but the configuration's.
func newSite(t *testing.T, fsGroup int) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), group: fsGroup, dirs: map[string]string{}}
	script(t, s.dir, `
		sealbatch serve --init keys --host keys.example.org --host 127.0.0.1 --no-store
		ssh-keygen -q -t ed25519 -N '' -f id
		mkdir data rest volume && echo secret >data/file
		mkdir -m 700 volume/lost+found`)
	key, err := os.ReadFile(filepath.Join(s.dir, "id.pub"))
	no(t, err, os.WriteFile(filepath.Join(s.dir, "client.conf"), fmt.Appendf(nil, `[hpcs-server]
url = https://127.0.0.1:8443
ca-cert = keys/ca.crt
[supercomputer]
local = yes
[identity]
ssh-key = id
`), 0o600))
	s.accounts = "alice " + string(key)
	for name, files := range map[string][]string{
		"master": {"keys-master/master.key"}, "tls": {"keys/tls.crt", "keys/tls.key"},
	} {
		text := map[string]string{}
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(s.dir, f))
			no(t, err)
			text[filepath.Base(f)] = string(b)
		}
		s.dirs[name] = filepath.Join(s.dir, "volumes", name)
		project(t, s.dirs[name], text, 0o400, fsGroup)
	}
	s.dirs["config"] = filepath.Join(s.dir, "volumes", "config")
	s.dirs["data"] = filepath.Join(s.dir, "volume")
	giveTo(t, s.dirs["data"], fsGroup, 0o660)
	return s
}

// project gives the pod its configuration, or a new one.
func (s *site) project(t *testing.T, data map[string]string) {
	t.Helper()
	project(t, s.dirs["config"], data, 0o444, s.group)
}

// script runs a shell script in a directory, with the program in its PATH.
func script(t *testing.T, dir, text string) string {
	t.Helper()
	c := exec.Command("sh", "-ec", text)
	c.Dir = dir
	c.Env = append(os.Environ(), "PATH="+filepath.Dir(sealbatch(t))+":"+os.Getenv("PATH"), "HOME="+dir)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s\n%s", err, text, out)
	}
	return string(out)
}

// as runs sealbatch as the user does, in the pod's network.
func (s *site) as(t *testing.T, p *pod, args ...string) (string, error) {
	t.Helper()
	env := []string{"env", "HOME=" + s.dir, "SEALBATCH_CONFIG=" + filepath.Join(s.dir, "client.conf"), sealbatch(t)}
	return p.inside(t, append(env, args...)...)
}

// TestPod plays what the chart renders: the Job that makes the store, the service, changed accounts, a deposit, and a
// restart after which Kubernetes has given the volume to the pod's group once more.
func TestPod(t *testing.T) {
	t.Parallel()
	values := map[string]any{"name": "keys.example.org", "init": true, "config": "[limits]\nmin-tier = C\n"}
	making, err := chart(t, "sealbatch", values)
	no(t, err)
	if n := *making["Deployment"].Spec.Replicas; n != 0 {
		t.Errorf("%d services run while the store is being made", n)
	}
	values["init"] = false
	serving, err := chart(t, "sealbatch", values)
	no(t, err)
	job, spec := making["Job"].Spec.Template.Spec, serving["Deployment"].Spec.Template.Spec
	hold(t, job, spec)
	s := newSite(t, spec.SecurityContext.FSGroup)
	s.project(t, making["ConfigMap"].Data)
	ends(t, s, spec, 7, "store.db is missing")
	ends(t, s, job, 0, "has its store in")
	ends(t, s, job, 1, "is not empty")

	data := serving["ConfigMap"].Data
	s.project(t, data)
	p := start(t, spec, s.dirs)
	p.probes(t)
	s.enrols(t, p, data)
	p.stop(t)

	// As kubelet does with fsGroupChangePolicy Always, and where it changes.
	giveTo(t, s.dirs["data"], s.group, 0o660)
	p = start(t, spec, s.dirs)
	p.probes(t)
	if out, err := s.as(t, p, "policy", "list"); err != nil || !strings.Contains(out, "data") {
		t.Errorf("after a restart: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"serve", "--check"}, {"serve", "account", "list"}} {
		out, err := p.exec(t, append(args, "--config", "/etc/sealbatch/server.conf")...)
		if err != nil || strings.Contains(out, "NO ") || !strings.Contains(out, "accounts") && !strings.Contains(out, "alice") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	p.stop(t)

	// The group is in server.conf for a reason.
	data["server.conf"] = strings.Replace(data["server.conf"], "group = ", "#group = ", 1)
	s.project(t, data)
	ends(t, s, spec, 3, "is not to be trusted")
}

// ends has a pod end by itself, with that status and saying that.
func ends(t *testing.T, s *site, spec podSpec, want int, says string) {
	t.Helper()
	p := start(t, spec, s.dirs)
	if code := p.end(t); code != want || !strings.Contains(p.log.String(), says) {
		t.Fatalf("%q: exit %d, want %d and %q:\n%s", p.spec.Containers[0].Args, code, want, says, &p.log)
	}
}

// enrols has the user enrolled while the service runs, who then deposits a key. A slip in the accounts shows, and does
// not have the service killed.
func (s *site) enrols(t *testing.T, p *pod, data map[string]string) {
	t.Helper()
	c := p.spec.Containers[0]
	if out, err := s.as(t, p, "policy", "list"); err == nil || !strings.Contains(out, "belongs to no account") {
		t.Errorf("nobody is enrolled: %v\n%s", err, out)
	}
	data["accounts"] = s.accounts
	s.project(t, data)
	poll(t, func() (bool, string) {
		out, err := s.as(t, p, "policy", "list")
		return err == nil, fmt.Sprintf("accounts changed: %v\n%s", err, out)
	})
	out, err := s.as(t, p, "data-prep", "-i", s.dir+"/data", "-o", s.dir, "-u", "alice", "-c", "n1", "--tier", "C",
		"--data-path-at-rest", s.dir+"/rest")
	if err != nil {
		t.Fatalf("a deposit: %v\n%s\n%s", err, out, &p.log)
	}
	data["accounts"] = s.accounts + "nonsense\n"
	s.project(t, data)
	p.awaits(t, c.ReadinessProbe, "503")
	if got := p.asks(t, c.LivenessProbe); got != "200" {
		t.Errorf("a slip in accounts would have it killed: %q", got)
	}
	data["accounts"] = s.accounts
	s.project(t, data)
}

// probes has the container start, live and be ready.
func (p *pod) probes(t *testing.T) {
	t.Helper()
	c := p.spec.Containers[0]
	for _, q := range []*probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		p.awaits(t, q, "200")
	}
}

// hold has pods be what Kubernetes calls restricted (Pod Security Standards).
func hold(t *testing.T, specs ...podSpec) {
	t.Helper()
	for _, s := range specs {
		c := s.Containers[0].SecurityContext
		if p := s.SecurityContext; !p.RunAsNonRoot || p.RunAsUser == 0 || p.SeccompProfile.Type != "RuntimeDefault" ||
			c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation || !c.ReadOnlyRootFilesystem ||
			len(c.Capabilities.Drop) != 1 || c.Capabilities.Drop[0] != "ALL" || *s.AutomountServiceAccountToken {
			t.Errorf("not restricted: %+v", s)
		}
	}
}
