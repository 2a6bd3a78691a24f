package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composeFile is what the test reads of a compose file; docker compose reads the same.
type composeFile struct {
	Services map[string]struct {
		Image       string            `yaml:"image"`
		Entrypoint  []string          `yaml:"entrypoint"`
		Command     []string          `yaml:"command"`
		Volumes     []string          `yaml:"volumes"`
		Environment map[string]string `yaml:"environment"`
		User        string            `yaml:"user"`
		Build       struct {
			Target string `yaml:"target"`
		} `yaml:"build"`
	} `yaml:"services"`
}

func loadCompose(t *testing.T, file string) composeFile {
	t.Helper()
	b, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	var c composeFile
	if err := yaml.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCompose holds compose.yaml to the images (tools/image) and to the program's own flags.
func TestCompose(t *testing.T) {
	t.Parallel()
	c := loadCompose(t, "compose.yaml")
	build := loadCompose(t, "compose.build.yaml")
	for _, name := range steps {
		s, ok := c.Services[name]
		if !ok {
			t.Errorf("there is no service %s", name)
			continue
		}
		if len(s.Entrypoint) > 0 || s.Image != "${SEALBATCH_IMAGES:-localhost/sealbatch}/"+name+":${SEALBATCH_TAG:-latest}" {
			t.Errorf("%s: entry point %q of %s", name, s.Entrypoint, s.Image)
		}
		if s.Build.Target != "" || build.Services[name].Build.Target != name {
			t.Errorf("%s: builds %q, with compose.build.yaml %q", name, s.Build.Target, build.Services[name].Build.Target)
		}
		if err := parses(append([]string{name}, s.Command...)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Contains(s.Volumes, "$PWD/workdir:/tmp") || !slices.Contains(s.Volumes, "$HOME/.ssh:/tmp/.ssh:ro") ||
			s.Environment["HOME"] != "/tmp" || s.Environment["SEALBATCH_CONFIG"] != "/tmp/hpcs-client.conf" || s.User == "" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// hpcsJob are job-prep's arguments as HPCS's README has them in its compose
// file, quotes within quotes included.
var hpcsJob = []string{"--config", "/tmp/hpcs-client.conf", "-N", "1", "-p", "standard", "-t", `"00:60:00"`, "-A", "project_462000031",
	"--nodelist", "nid003044", "--workdir", "/scratch/project_462000031/etellier",
	"-ai", "/scratch/project_462000031/etellier/encrypted_prepared_jp2a.sif.info.yaml",
	"-di", "/scratch/project_462000031/etellier/encrypted_jp2a_input.tgz.info.yaml",
	"-args", `"\" /sd-container/encrypted/jp2a_input/image.png --width=100 --output=/sd-container/output/result \""`,
	"-i", "/pfs/lustrep4/scratch/project_462000031/etellier/verification_scripts",
	"-o", "/pfs/lustrep4/scratch/project_462000031/etellier/verification_scripts",
	"-flags", "--env TERM=xterm-256color", "-f"}

// TestComposeJob runs job-prep as in the container, with the example of a
// configuration: a home directory that is /tmp there, and nothing else.
func TestComposeJob(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	run(t, exec.Command("sealbatch", "serve", "--init", filepath.Join(home, "keys"), "--host", "keys.example.org"))
	run(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(mkdir(t, home, ".ssh"), "id_ed25519")))
	example, err := os.ReadFile("../../client.conf.example")
	if err != nil {
		t.Fatal(err)
	}
	conf := strings.Replace(string(example), "#ca-cert = keys-ca.pem", "ca-cert = keys/ca.crt", 1)
	if err := os.WriteFile(filepath.Join(home, "hpcs-client.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(mkdir(t, home, "bin"), "sealbatch")
	self, err := exec.LookPath("sealbatch")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(self, program); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "bin", "gocryptfs"), []byte("gocryptfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{"compose.yaml": loadCompose(t, "compose.yaml").Services["job-prep"].Command, "HPCS's": hpcsJob} {
		args = append([]string{"job-prep", "--dry-run"}, args...)
		for i, a := range args {
			if strings.HasPrefix(a, "/tmp/") {
				args[i] = home + strings.TrimPrefix(a, "/tmp")
			}
		}
		cmd := exec.Command(program, args...)
		cmd.Env, cmd.Dir = []string{"HOME=" + home, "PATH=/usr/local/bin"}, home
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		for _, want := range []string{"connect to lumi.csc.fi\n", "#SBATCH --time=00:60:00\n", "#SBATCH --nodelist=nid003044\n",
			"#SBATCH --account=project_462000031\n", "encrypted_jp2a_input.tgz.info.yaml", "https://keys.example.org:8443"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: %q is not in\n%s", name, want, out)
			}
		}
	}
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
