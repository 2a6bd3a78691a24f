// Package deploy has the tests of what operators put on machines: units of systemd,
// the chart for Kubernetes, the compose file and the Ansible role.
package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const program = "/usr/local/bin/sealbatch"

// TestUnits has systemd read the units, and say how much they leave open.
func TestUnits(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sealbatch-serve.service", "sealbatch-verifier.service"} {
		unit, err := os.ReadFile(filepath.Join("systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		// What ExecStart names must exist.
		there := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(there, bytes.Replace(unit, []byte(program), []byte(self), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", there).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		// In tenths; 27 is what is left of 96 by what the units forbid.
		out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=27", "--no-pager", there).
			CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
