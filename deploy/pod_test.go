package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// built is the program, as it is in the image.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sealbatch-deploy-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "sealbatch")
	c := exec.Command("go", "build", "-o", file, "../cmd/sealbatch")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return file, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if file, err := built(); err == nil {
		_ = os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(code)
}

func sealbatch(t *testing.T) string {
	t.Helper()
	file, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// pod runs the container of a rendered pod: its command as its user, with its mounts and nothing else to write to, in
// a network of its own.
type pod struct {
	spec podSpec
	dirs map[string]string // of the volumes, by their names
	id   string
	cmd  *exec.Cmd
	log  said
}

// said is what a container has said so far.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// start runs the container. Secrets and ConfigMaps are those that lie in dirs.
func start(t *testing.T, spec podSpec, dirs map[string]string) *pod {
	t.Helper()
	p := &pod{spec: spec, dirs: dirs, id: fmt.Sprintf("sealbatch-test-%d-%d", os.Getpid(), time.Now().UnixNano())}
	bundle := t.TempDir()
	bin := filepath.Join(bundle, "rootfs", program)
	b, err := os.ReadFile(sealbatch(t))
	no(t, err, os.MkdirAll(filepath.Dir(bin), 0o755), os.WriteFile(bin, b, 0o755))
	conf, err := json.Marshal(p.runtimeConfig())
	no(t, err, os.WriteFile(filepath.Join(bundle, "config.json"), conf, 0o600))
	p.cmd = exec.Command("runc", "run", "--bundle", bundle, "--pid-file", filepath.Join(bundle, "pid"), p.id)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	no(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = exec.Command("runc", "kill", p.id, "KILL").Run()
			_ = p.cmd.Wait()
		}
		_ = exec.Command("runc", "delete", "--force", p.id).Run()
	})
	return p
}

// runtimeConfig is the container as a runtime is told (opencontainers/runtime-spec, config.md).
func (p *pod) runtimeConfig() map[string]any {
	type m = map[string]any
	c, s := p.spec.Containers[0], p.spec.SecurityContext
	mounts := []m{
		{"destination": "/proc", "type": "proc", "source": "proc", "options": []string{"nosuid", "noexec", "nodev"}},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755", "size=64k"}},
	}
	for _, v := range c.VolumeMounts {
		o := []string{"rbind", "rw"}
		if v.ReadOnly {
			o[1] = "ro"
		}
		mounts = append(mounts, m{"destination": v.MountPath, "type": "bind", "source": p.dirs[v.Name], "options": o})
	}
	var spaces []m
	for _, s := range []string{"pid", "ipc", "uts", "mount", "network"} {
		spaces = append(spaces, m{"type": s})
	}
	return m{
		"ociVersion": "1.0.2", "mounts": mounts, "linux": m{"namespaces": spaces},
		"root": m{"path": "rootfs", "readonly": c.SecurityContext.ReadOnlyRootFilesystem},
		"process": m{
			"args": append(slices.Clone(c.Command), c.Args...), "cwd": "/", "env": []string{"PATH=/usr/local/bin"},
			"user": m{"uid": s.RunAsUser, "gid": s.RunAsGroup, "additionalGids": []int{s.FSGroup}},
			// None: the chart drops ALL.
			"capabilities":    m{},
			"noNewPrivileges": !*c.SecurityContext.AllowPrivilegeEscalation,
		},
	}
}

// end waits for the container, and returns its exit status.
func (p *pod) end(t *testing.T) int {
	t.Helper()
	done := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer done.Stop()
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// stop ends it as Kubernetes does.
func (p *pod) stop(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("runc", "kill", p.id, "TERM").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, &p.log)
	}
	if code := p.end(t); code != 0 {
		t.Errorf("SIGTERM: exit %d\n%s", code, &p.log)
	}
}

// inside runs a command of this machine in the pod's network.
func (p *pod) inside(t *testing.T, argv ...string) (string, error) {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(p.cmd.Args[3], "pid"))
	if err != nil {
		return "", err
	}
	out, err := exec.Command("nsenter", append([]string{"-t", string(pid), "-n", "--"}, argv...)...).CombinedOutput()
	return string(out), err
}

// exec runs the program in the container, as kubectl exec does.
func (p *pod) exec(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("runc", append([]string{"exec", p.id, program}, args...)...).CombinedOutput()
	return string(out), err
}

// asks makes a probe as kubelet does, which takes any certificate, and returns the status.
func (p *pod) asks(t *testing.T, q *probe) string {
	t.Helper()
	c := p.spec.Containers[0]
	if len(c.Ports) != 1 || q.HTTPGet.Port != c.Ports[0].Name {
		t.Fatalf("a probe of port %q, beside %v", q.HTTPGet.Port, c.Ports)
	}
	url := strings.ToLower(q.HTTPGet.Scheme) + "://127.0.0.1:" + strconv.Itoa(c.Ports[0].ContainerPort) + q.HTTPGet.Path
	out, _ := p.inside(t, "curl", "-ksS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url)
	return out
}

// awaits is kubelet's loop: it probes until the answer is want.
func (p *pod) awaits(t *testing.T, q *probe, want string) {
	t.Helper()
	poll(t, func() (bool, string) {
		got := p.asks(t, q)
		return got == want, fmt.Sprintf("%s: %q, want %q\n%s", q.HTTPGet.Path, got, want, &p.log)
	})
}

// poll tries until it is true, for at most half a minute.
func poll(t *testing.T, try func() (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, what := try()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(what)
		case <-tick.C:
		}
	}
}
