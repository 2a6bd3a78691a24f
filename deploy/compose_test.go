package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// service is what a compose file says of one.
type service struct {
	Image, User    string
	Command, Ports []string
	Volumes        []string
	ReadOnly       bool     `yaml:"read_only"`
	CapDrop        []string `yaml:"cap_drop"`
	SecurityOpt    []string `yaml:"security_opt"`
}

var variable = regexp.MustCompile(`\$\{([A-Z_]+):-([^}]*)\}`)

// services reads deploy/compose.yaml with the variables that it names.
func services(t *testing.T, env map[string]string) map[string]service {
	t.Helper()
	b, err := os.ReadFile("compose.yaml")
	no(t, err)
	text := variable.ReplaceAllStringFunc(string(b), func(s string) string {
		m := variable.FindStringSubmatch(s)
		if v, ok := env[m[1]]; ok {
			return v
		}
		return m[2]
	})
	var file struct{ Services map[string]service }
	no(t, yaml.Unmarshal([]byte(text), &file))
	return file.Services
}

// asPod is a service as the pod that it would be, and its directories, relative to dir.
func (s service) asPod(t *testing.T, dir string) (p podSpec, dirs map[string]string) {
	t.Helper()
	uid, gid, _ := strings.Cut(s.User, ":")
	var err, err2 error
	p.SecurityContext.RunAsUser, err = strconv.Atoi(uid)
	p.SecurityContext.RunAsGroup, err2 = strconv.Atoi(gid)
	no(t, err, err2)
	p.SecurityContext.FSGroup = p.SecurityContext.RunAsGroup
	// The image's entry point (Dockerfile, target server).
	c := container{Command: []string{program, "serve"}, Args: s.Command}
	c.SecurityContext.ReadOnlyRootFilesystem = s.ReadOnly
	more := len(s.SecurityOpt) != 1 || s.SecurityOpt[0] != "no-new-privileges:true"
	c.SecurityContext.AllowPrivilegeEscalation = &more
	if !s.ReadOnly || more || len(s.CapDrop) != 1 || s.CapDrop[0] != "ALL" {
		t.Errorf("not restricted: %+v", s)
	}
	dirs = map[string]string{}
	for i, v := range s.Volumes {
		from, to, _ := strings.Cut(v, ":")
		to, ro := strings.CutSuffix(to, ":ro")
		name := strconv.Itoa(i)
		dirs[name] = filepath.Join(dir, from)
		c.VolumeMounts = append(c.VolumeMounts, mount{Name: name, MountPath: to, ReadOnly: ro})
	}
	p.Containers = []container{c}
	return p, dirs
}

// TestCompose plays the services of deploy/compose.yaml as a user who is not root: init, once, and the service.
func TestCompose(t *testing.T) {
	t.Parallel()
	const uid = 1001
	id := strconv.Itoa(uid)
	all := services(t, map[string]string{"UID": id, "GID": id, "SEALBATCH_HOST": "keys.example.org"})
	dir := t.TempDir()
	no(t, os.Chown(dir, uid, uid), os.Chmod(dir, 0o700))
	run := func(name string) *pod {
		if all[name].Image != "localhost/sealbatch/server:latest" {
			t.Errorf("%s: %q", name, all[name].Image)
		}
		spec, dirs := all[name].asPod(t, dir)
		return start(t, spec, dirs)
	}
	ends := func(name string, want int, says string) {
		p := run(name)
		if code := p.end(t); code != want || !strings.Contains(p.log.String(), says) {
			t.Fatalf("%s: exit %d, want %d and %q:\n%s", name, code, want, says, &p.log)
		}
	}
	ends("init", 0, "is set up in /srv/sealbatch/keys")
	ends("init", 1, "nothing was changed")
	ends("check", 0, "ok  store")
	p := run("keys")
	poll(t, func() (bool, string) {
		out, err := p.inside(t, "curl", "-sS", "--cacert", dir+"/keys/ca.crt", "--connect-to", "::127.0.0.1:",
			"https://keys.example.org:8443/readyz")
		return err == nil && strings.Contains(out, `"ready":true`), out + p.log.String()
	})
	if ports := all["keys"].Ports; len(ports) != 1 || ports[0] != "8443:8443" {
		t.Errorf("ports: %v", ports)
	}
	p.stop(t)
}
