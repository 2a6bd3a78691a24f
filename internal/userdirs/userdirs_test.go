package userdirs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// scene is a machine below a temporary directory.
type scene struct {
	machine
	t   *testing.T
	env map[string]string
}

// newScene makes one with the directories and files (DIR/ or FILE, then MODE:UID if they are special), and mounts
// ("POINT ROOT KIND") besides that of "/".
func newScene(t *testing.T, uid int, env map[string]string, files []string, mounts ...string) scene {
	t.Helper()
	s := scene{machine{root: t.TempDir(), uid: uid, getenv: func(k string) string { return env[k] }}, t, env}
	lines := "1 0 0:1 / / rw - overlay overlay rw\n"
	for i, m := range mounts {
		f := strings.Fields(m)
		lines += fmt.Sprintf("%d 1 8:1 %s %s rw shared:1 - %s /dev/x rw\n", i+2, f[1], f[0], f[2])
	}
	s.make("/proc/self/", "")
	s.make("/proc/self/mountinfo", lines)
	for _, f := range files {
		var owner int
		mode := os.FileMode(0o755)
		name, special, ok := strings.Cut(f, " ")
		s.make(name, "")
		if ok {
			if _, err := fmt.Sscanf(special, "%o:%d", &mode, &owner); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(s.at(name), owner, owner); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(s.at(name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

func (s scene) make(name, text string) {
	s.t.Helper()
	dir := filepath.Dir(s.at(name))
	if strings.HasSuffix(name, "/") {
		dir = s.at(name)
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil && !strings.HasSuffix(name, "/") {
		err = os.WriteFile(s.at(name), []byte(text), 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestSSH(t *testing.T) {
	t.Parallel()
	home := map[string]string{"HOME": "/home/alice"}
	hpcs := []string{"/tmp/ 1777:0", "/tmp/.ssh/ 700:1001", "/tmp/.ssh/id_rsa"}
	for name, c := range map[string]struct {
		uid       int
		env       map[string]string
		files     []string
		mounts    []string
		ssh, path string // of ~/.ssh/config
		key       string
	}{
		"as ever":              {1001, home, append(hpcs, "/home/alice/.ssh/"), nil, "/home/alice/.ssh", "/home/alice/.ssh/config", "id_ed25519"},
		"HPCS's":               {1001, home, hpcs, nil, "/tmp/.ssh", "/tmp/.ssh/config", "id_rsa"},
		"no HOME":              {1001, nil, hpcs, nil, "/tmp/.ssh", "/home/alice/.ssh/config", "id_rsa"},
		"neither":              {1001, home, nil, nil, "/home/alice/.ssh", "/home/alice/.ssh/config", "id_ed25519"},
		"another's":            {1002, home, hpcs, nil, "/home/alice/.ssh", "/home/alice/.ssh/config", "id_ed25519"},
		"others may write":     {1001, home, []string{"/tmp/.ssh/ 1777:1001"}, nil, "/home/alice/.ssh", "/home/alice/.ssh/config", "id_ed25519"},
		"a file":               {1001, home, []string{"/tmp/.ssh 600:1001"}, nil, "/home/alice/.ssh", "/home/alice/.ssh/config", "id_ed25519"},
		"both keys":            {1001, home, append(hpcs, "/tmp/.ssh/id_ed25519"), nil, "/tmp/.ssh", "/tmp/.ssh/config", "id_ed25519"},
		"the agent has it":     {1001, home, []string{"/home/alice/.ssh/id_rsa.pub"}, nil, "/home/alice/.ssh", "/home/alice/.ssh/config", "id_rsa"},
		"root, no container":   {0, home, hpcs, []string{"/tmp /home/alice/work ext4"}, "/home/alice/.ssh", "/home/alice/.ssh/config", "id_ed25519"},
		"root, in a container": {0, home, []string{"/.dockerenv", "/tmp/ 755:1001", "/tmp/.ssh/ 700:1001"}, []string{"/tmp /home/alice/work ext4"}, "/tmp/.ssh", "/tmp/.ssh/config", "id_ed25519"},
	} {
		s := newScene(t, c.uid, c.env, c.files, c.mounts...)
		if got := s.ssh(); got != c.ssh {
			t.Errorf("%s: %s, want %s", name, got, c.ssh)
		}
		if got := s.sshPath("/home/alice/.ssh/config"); got != c.path {
			t.Errorf("%s: config: %s, want %s", name, got, c.path)
		}
		if got := filepath.Base(s.key()); got != c.key {
			t.Errorf("%s: key %s, want %s", name, got, c.key)
		}
		if got := s.sshPath("/home/alice/.sshd"); got != "/home/alice/.sshd" {
			t.Errorf("%s: another path became %s", name, got)
		}
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	const mounted = `/tmp /home/alice/my\040work ext4`
	for name, c := range map[string]struct {
		uid    int
		files  []string
		mounts string
		want   uint32
	}{
		"a container":        {0, []string{"/.dockerenv", "/tmp/ 755:1000"}, mounted, 1000},
		"Podman's":           {0, []string{"/run/.containerenv", "/tmp/ 775:1000"}, mounted, 1000},
		"not root":           {7, []string{"/.dockerenv", "/tmp/ 755:1000"}, mounted, 0},
		"no container":       {0, []string{"/tmp/ 755:1000"}, mounted, 0},
		"marked by another":  {0, []string{"/.dockerenv 644:1000", "/tmp/ 755:1000"}, mounted, 0},
		"marked by a mount":  {0, []string{"/.dockerenv/", "/tmp/ 755:1000"}, mounted, 0},
		"no mount":           {0, []string{"/.dockerenv", "/tmp/ 755:1000"}, "/tmp/deeper / ext4", 0},
		"everybody's":        {0, []string{"/.dockerenv", "/tmp/ 1777:1000"}, mounted, 0},
		"root's":             {0, []string{"/.dockerenv", "/tmp/ 755:0"}, mounted, 0},
		"of a foreign world": {0, []string{"/.dockerenv", "/tmp/ 755:65534"}, mounted, 0},
	} {
		got, ok := newScene(t, c.uid, nil, c.files, c.mounts).owner()
		if got != c.want && ok || ok != (c.want != 0) {
			t.Errorf("%s: %d, %t; want %d", name, got, ok, c.want)
		}
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	home := map[string]string{"HOME": "/home/alice"}
	const usual, moved = "/home/alice/.local/state/sealbatch", "/tmp/.local/state/sealbatch"
	for name, c := range map[string]struct {
		env    map[string]string
		files  []string
		mounts []string
		want   State
	}{
		"a machine":         {home, []string{"/home/alice/"}, nil, State{Dir: usual}},
		"named":             {map[string]string{"XDG_STATE_HOME": "/s"}, []string{"/.dockerenv", "/s/"}, []string{"/s /x ext4"}, State{Dir: "/s/sealbatch"}},
		"named, not kept":   {map[string]string{"XDG_STATE_HOME": "/s"}, []string{"/.dockerenv"}, nil, State{Dir: "/s/sealbatch", Passing: true}},
		"home mounted":      {home, []string{"/.dockerenv", "/home/alice/", "/tmp/"}, []string{"/home/alice / ext4", "/tmp /w ext4"}, State{Dir: usual}},
		"home of the image": {home, []string{"/.dockerenv", "/home/alice/", "/tmp/"}, []string{"/tmp /w ext4"}, State{Dir: moved, Moved: true}},
		"no home":           {nil, []string{"/.dockerenv", "/tmp/"}, []string{"/tmp /w ext4"}, State{Dir: moved, Moved: true}},
		"nothing mounted":   {home, []string{"/.dockerenv", "/tmp/"}, nil, State{Dir: usual, Passing: true}},
		"memory mounted":    {home, []string{"/.dockerenv", "/tmp/"}, []string{"/tmp / tmpfs"}, State{Dir: usual, Passing: true}},
		"of a tmpfs":        {home, []string{"/.dockerenv", "/tmp/"}, []string{"/tmp /work tmpfs"}, State{Dir: moved, Moved: true}},
		"home is a file":    {home, []string{"/.dockerenv", "/home", "/tmp/"}, nil, State{Dir: moved, Moved: true, Passing: true}},
	} {
		if got, err := newScene(t, 0, c.env, c.files, c.mounts...).state(); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	if _, err := newScene(t, 0, nil, nil).state(); err == nil {
		t.Error("no home directory, and no error")
	}
	if err := (State{Dir: "/dev/null/state"}).Check(); err == nil {
		t.Error("a directory below a file can be made")
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add(`36 35 98:0 /mnt1 /my\040dir rw,noatime master:1 - ext3 /dev/root rw`)
	f.Add(" - ")
	f.Fuzz(func(t *testing.T, line string) {
		if m, ok := parseMount(line); ok && (m.point == "" || m.root == "" || m.kind == "") {
			t.Errorf("%q: %+v", line, m)
		}
	})
}
