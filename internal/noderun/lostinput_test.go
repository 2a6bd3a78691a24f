package noderun

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sealbatch/sealbatch/internal/sandbox"
)

// TestInputsThatChangeUnderTheMount: an application that passes over an I/O
// error ends in success, as far as it knows. Its job does not.
func TestInputsThatChangeUnderTheMount(t *testing.T) {
	t.Parallel()
	const readOn = `exec 9> /host/ready; echo ready >&9; while ! [ -e /host/go ]; do sleep 0.01; done
		cat /sd-container/encrypted/input/f > copy; echo kept > result; `
	alter := func(_ *testing.T, f *os.File, size int64) error {
		_, err := f.WriteAt([]byte("altered"), size/2) // one file is nearly all of the volume
		return err
	}
	for name, c := range map[string]struct {
		spoil  func(t *testing.T, f *os.File, size int64) error
		then   string // what the application does after reading
		code   int
		reason string
	}{
		"altered":              {alter, "exit 0", ExitIntegrity, "integrity"},
		"altered and it fails": {alter, "exit 3", ExitIntegrity, "integrity"},
		"altered and it waits": {alter, "sleep 1000", ExitIntegrity, "integrity"},
		"cut": {func(_ *testing.T, f *os.File, size int64) error { return f.Truncate(size / 2) },
			"exit 0", ExitIntegrity, "integrity"},
		"removed": {func(_ *testing.T, f *os.File, _ int64) error { return os.Remove(f.Name()) },
			"exit 0", 0, "completed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			big := strings.Repeat("0123456789abcdef", 1<<16)
			j := newJob(t, map[string]string{"f": big}, "sh", "-c", readOn+c.then)
			cmd := j.start()
			defer j.ready().Close()
			f, err := os.OpenFile(j.m.Volumes[1].Path, os.O_RDWR, 0)
			check(t, err)
			defer f.Close()
			check(t, c.spoil(t, f, j.m.Volumes[1].Size))
			check(t, os.WriteFile(j.host+"/go", nil, 0o600))
			if code := j.wait(cmd); code != c.code {
				t.Fatalf("exit code %d, want %d", code, c.code)
			}
			got, r := j.results(), j.receipt()
			if r.Reason != c.reason {
				t.Errorf("receipt: %+v", r)
			}
			if c.code == 0 {
				if got["copy"] != big {
					t.Errorf("%d bytes were read", len(got["copy"]))
				}
				return
			}
			if !strings.HasPrefix(big, got["copy"]) || !strings.Contains(got[logFile], "could not be read") {
				t.Errorf("copied %d bytes, detailed log: %s", len(got["copy"]), got[logFile])
			}
			if !strings.Contains(j.log.String(), errLostInput.Error()) {
				t.Error("the job's log does not say why it ended")
			}
			j.leftNothing()
		})
	}
}

func TestStorageThatFailsIsNoAlteration(t *testing.T) {
	t.Parallel()
	m := &mounted{}
	err := m.mountFailed(fmt.Errorf("%w: at in: %w", sandbox.ErrRead, syscall.ESTALE))
	if exitOf(err, 0) != ExitMount || !errors.Is(err, errLostInput) || !errors.Is(err, syscall.ESTALE) {
		t.Errorf("%v, exit code %d", err, exitOf(err, 0))
	}
}
