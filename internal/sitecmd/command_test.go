package sitecmd_test

import (
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/sitecmd/sitecmdtest"
)

func TestEnvironment(t *testing.T) {
	t.Parallel()
	out, err := sitecmd.Command{Path: sitecmdtest.Script(t, "exec env"), MaxOutput: 1000, Env: []string{"A=b"}}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		// The shell adds PWD and its like itself.
		if k, _, _ := strings.Cut(line, "="); !strings.Contains("A LC_ALL PWD SHLVL _ OLDPWD", k) {
			t.Errorf("the command sees %s", line)
		}
	}
}
