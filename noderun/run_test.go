package noderun

import (
	"crypto/sha256"
	"fmt"
	"testing"
)

func sum(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

func TestRunSealsTheResults(t *testing.T) {
	t.Parallel()
	j := newJob(t, map[string]string{"a file": "data", "SHA256SUMS": sum("data") + "  a file\n"},
		"sh", "-c", `cat "/sd-container/input/a file" > result; echo out; echo err >&2; echo "$1 $OMP_NUM_THREADS$EDITOR$SLURM_JWT" > args`, "sh", "an argument")
	if code := j.run(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	got := j.results()
	for name, want := range map[string]string{
		"result": "data", "stdout": "out\n", "stderr": "err\n", "exit_code": "0\n", "args": "an argument 3\n",
	} {
		if got[name] != want {
			t.Errorf("%s holds %q, want %q", name, got[name], want)
		}
	}
	j.missing(outputName, scratchName, partialName)
}
