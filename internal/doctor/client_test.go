package doctor

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// fakeRunner is a login node on which every command ends in the same way.
type fakeRunner struct {
	exit int
	err  error
}

func (f fakeRunner) Run(context.Context, []string, io.Reader) (stdout, stderr []byte, exit int, err error) {
	return []byte("slurm 24.05\n"), nil, f.exit, f.err
}

func TestClient(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	local := []string{"ok configuration", "ok account key", "ok recipients of results"}
	for name, c := range map[string]struct {
		change func(*Client)
		runner fakeRunner
		want   []string
	}{
		"well": {func(*Client) {}, fakeRunner{}, append(slices.Clone(local),
			"NO key service", "ok site", "ok Slurm", "ok workdir")},
		"nothing on this machine": {func(c *Client) {
			c.Conf.Supercomputer.Mounts = "2"
			c.Recipients = func() (int, error) { return 0, refused }
			c.Trust = func() error { return refused }
			c.Gocryptfs = "/nowhere"
			c.Connect = func(context.Context) (Site, error) { return Site{}, refused }
		}, fakeRunner{}, []string{"ok configuration", "NO [supercomputer] mounts", "ok account key", "NO recipients of results",
			"NO [trust] allowed-signers", "NO gocryptfs", "NO key service", "NO site"}},
		"no workdir": {func(c *Client) { c.Conf.Job.Workdir += "/none" }, fakeRunner{exit: 127}, append(slices.Clone(local),
			"NO key service", "ok site", "NO Slurm", "NO workdir")},
		"workdir not named": {func(c *Client) { c.Conf.Job.Workdir = "" }, fakeRunner{err: refused}, append(slices.Clone(local),
			"NO key service", "ok site", "NO Slurm", "ok workdir")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			report := func(f Finding) { got = append(got, mark(f)) }
			closed := false
			conf, workdir := &config.Client{}, t.TempDir()
			conf.Job.Workdir = workdir
			client := Client{
				Conf: conf, KeyType: "ssh-ed25519", Gocryptfs: self, Report: report,
				Recipients: func() (int, error) { return 1, nil },
				Trust:      func() error { return nil },
				Service:    Service{Keys: fakeKeys{err: refused}, Report: report},
				Connect: func(context.Context) (Site, error) {
					return Site{FS: transfer.Local{}, Runner: c.runner, Close: func() error { closed = true; return nil }}, nil
				},
			}
			c.change(&client)
			client.Check(t.Context())
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
			if slices.Contains(got, "ok site") != closed {
				t.Error("the connection was not closed")
			}
			if left, err := os.ReadDir(workdir); err != nil || len(left) > 0 {
				t.Errorf("left in the workdir: %v, %v", left, err)
			}
		})
	}
}
