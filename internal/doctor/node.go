package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/fusefs"
	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/nodelocal"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/volume"
)

// NodeCheck says what to look at on a node.
type NodeCheck struct {
	Gocryptfs string              // the program that would travel with a job
	Runtime   string              // as the manifest has it
	Getenv    func(string) string // the environment of a job
	Report    func(ui.Finding)    // hears every finding
	Log       *slog.Logger        // of what is cleared away
}

// CheckNode tries on this node what a job needs, and removes what dead jobs of
// this user left. It reports each thing with the reason and the cure.
func CheckNode(ctx context.Context, c NodeCheck) {
	if os.Geteuid() == 0 {
		c.Report(ui.Finding{What: "user", Bad: true, Detail: "this is root: jobs run as their user, and so should this"})
		return
	}
	if n := nodelocal.Clear(nodelocal.Places("/tmp/self", c.Getenv), c.Log); n > 0 {
		c.Report(ui.Finding{What: "dead jobs", Detail: fmt.Sprintf("what %d of them had left on this node is removed, mounts included", n)})
	}
	dir := c.checkDirectories()
	fuse := c.checkFuse()
	if rt, ok := c.checkRuntime(ctx); ok && fuse { // without it, what each way says would mislead
		c.checkWays(ctx, dir, rt)
	}
	c.checkMunge(ctx)
	c.checkMemory()
}

// leastFree is what a node-local directory should have free: the programs that
// travel, and the room that they need to work.
const leastFree = 64 << 20

// checkDirectories finds the directory that the job script would take.
func (c NodeCheck) checkDirectories() (first string) {
	seen := 0
	for _, place := range nodelocal.Places("/tmp/self", c.Getenv) {
		dir, err := os.MkdirTemp(place, "doctor.*")
		if err != nil {
			continue // there need not be all of them
		}
		seen++
		var st unix.Statfs_t
		err = errors.Join(tryProgram(dir), os.Remove(dir))
		if serr := unix.Statfs(place, &st); serr == nil && err == nil && int64(st.Bavail)*st.Bsize < leastFree {
			err = fmt.Errorf("%s are free, %s are needed", ui.Size(int64(st.Bavail)*st.Bsize), ui.Size(leastFree))
		}
		switch {
		case err != nil:
			c.Report(ui.Finding{What: "directory " + place, Warn: true, Detail: "jobs pass it over: " + err.Error()})
		case first == "":
			first = place
			c.Report(ui.Finding{What: "directory " + place, Detail: fmt.Sprintf("programs run there, %s are free: jobs take it", ui.Size(int64(st.Bavail)*st.Bsize))})
		}
	}
	if first == "" {
		c.Report(ui.Finding{What: "node-local directory", Bad: true, Detail: fmt.Sprintf("none of %d can hold and run programs", seen),
			Fix: "set TMPDIR in [supercomputer] setup to a directory of the node that is not mounted noexec and not full"})
	}
	return first
}

// tryProgram runs a script in dir, as the job script does.
func tryProgram(dir string) error {
	try := filepath.Join(dir, nodelocal.TryName)
	if err := os.WriteFile(try, []byte("#!/bin/sh\n"), 0o700); err != nil {
		return err
	}
	err := exec.Command(try).Run()
	if errors.Is(err, os.ErrPermission) {
		err = errors.New("programs cannot be run there (noexec)")
	}
	return errors.Join(err, os.Remove(try))
}

func (c NodeCheck) checkFuse() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		c.Report(ui.Finding{What: "/dev/fuse", Bad: true, Detail: err.Error(), Fix: "the site has to load the module fuse and let users open /dev/fuse (mode 0666)"})
		return false
	}
	_ = f.Close()
	c.Report(ui.Finding{What: "/dev/fuse", Detail: "can be opened"})
	return true
}

// waySays is what cures a way that does not work.
var waySays = map[fusefs.Way]string{
	fusefs.Namespace: "the site may allow user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1 " +
		"or kernel.apparmor_restrict_unprivileged_userns=0; not needed if way 2 works",
	fusefs.Fusermount: "the site may install fusermount3 set-uid root (package fuse3), list the user in passwd, and without user namespaces " +
		"make the container runtime set-uid; not needed if way 1 works",
	fusefs.Runtime: "needed only where neither other way works: the container runtime has to be set-uid root, and fusermount3 is needed too, for the image",
}

// describe is how findings call a way of mounting.
func describe(w fusefs.Way) string { return fmt.Sprintf("way %d (%v)", w, w) }

// checkWays tries each way for real.
func (c NodeCheck) checkWays(ctx context.Context, place string, rt container.Runtime) {
	if place == "" {
		return
	}
	works := 0
	for _, way := range []fusefs.Way{fusefs.Namespace, fusefs.Fusermount, fusefs.Runtime} {
		if err := c.try(ctx, way, place, rt); err != nil {
			c.Report(ui.Finding{What: describe(way), Warn: true, Detail: "does not work: " + err.Error(), Fix: waySays[way]})
			continue
		}
		works++
		c.Report(ui.Finding{What: describe(way), Detail: "a container wrote to an encrypted volume, and it was read back"})
	}
	if works == 0 {
		c.Report(ui.Finding{What: "mounts", Bad: true, Detail: "no way of mounting works here", Fix: "one of the three above has to be made to work"})
	}
}

// try makes a trial below place and removes it.
func (c NodeCheck) try(ctx context.Context, way fusefs.Way, place string, rt container.Runtime) error {
	dir, err := os.MkdirTemp(place, "doctor.*")
	if err != nil {
		return err
	}
	// What the space left, should it not have closed, is not removed with it.
	defer func() {
		for _, name := range []string{"cipher", "box"} {
			_ = fsx.RemoveTree(filepath.Join(dir, name))
		}
		_ = os.Remove(filepath.Join(dir, nodelocal.SpaceName))
		_ = os.Remove(dir)
	}()
	for _, name := range []string{nodelocal.SpaceName, "cipher", "box"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(dir, "cipher"), -1, os.Getegid()); err != nil {
		return err
	}
	if err := makeBox(filepath.Join(dir, "box")); err != nil {
		return fmt.Errorf("make an image to try with: %w", err)
	}
	s, err := fusefs.NewSpace(ctx, fusefs.SpaceOptions{Way: way, Dir: filepath.Join(dir, nodelocal.SpaceName), Gocryptfs: c.Gocryptfs, Log: c.Log})
	if err != nil {
		return err
	}
	t := trial{space: s, dir: dir, runtime: rt, path: c.Getenv("PATH"), view: container.OutputRel}
	return errors.Join(t.run(), s.Close())
}

// logFile has what the runtime said.
const logFile = "sealbatch.log"

// boxed is what the container of a trial seals, and where this program is in it.
const (
	boxed   = "/etc/hostname"
	boxSelf = "/bin/sealbatch"
)

// makeBox makes a directory that runtimes take for an image: this program, which
// is static, and the directories that they mount on.
func makeBox(dir string) error {
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "home", "root", strings.TrimPrefix(container.Root, "/")} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{boxed, "/etc/passwd", "/etc/group", "/etc/resolv.conf", "/etc/hosts", "/etc/localtime"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("sealbatch\n"), 0o600); err != nil {
			return err
		}
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	to, err := os.OpenFile(filepath.Join(dir, boxSelf), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, self)
	return errors.Join(err, to.Close())
}

// trial is a space with one empty output volume.
type trial struct {
	space   *fusefs.Space
	dir     string
	runtime container.Runtime
	path    string
	view    string // where the volume is for this process
	fuse    []string
}

func (t *trial) run() error {
	key, err := volume.NewKey()
	if err != nil {
		return err
	}
	defer key.Wipe()
	if err := t.mount(filepath.Join(t.dir, "cipher"), key); err != nil {
		return err
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	const written = "written"
	p, err := t.space.Start(t.command(boxSelf, "seal", boxed, "-o", container.Output+"/"+written, "-r", id.Recipient().String()))
	if err != nil {
		return fmt.Errorf("start the container runtime: %w", err)
	}
	exit, err := p.Wait()
	if err != nil {
		return err
	}
	out := t.space.Outside(t.view)
	if exit.Code != 0 {
		said, _ := fsx.ReadRegular(filepath.Join(out, logFile), maxSaid)
		return fmt.Errorf("the container ended with exit code %d: %.600s", exit.Code, strings.TrimSpace(string(said)))
	}
	f, err := os.Open(filepath.Join(out, written))
	if err != nil {
		return fmt.Errorf("what the container wrote does not come back: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil {
		_, err = volume.UnwrapKey(f, st.Size(), id)
	}
	if err != nil {
		return fmt.Errorf("what the container wrote comes back damaged: %w", err)
	}
	return nil
}

// maxSaid bounds what a failed runtime said, in bytes.
const maxSaid = 64 << 10

func (t *trial) mount(cipher string, key volume.Key) (err error) {
	s := t.space
	if err := errors.Join(s.Mkdir(container.TreeRel, 0o755), s.Mkdir(container.NoneRel, 0o500)); err != nil {
		return err
	}
	if s.Way() == fusefs.Runtime {
		t.view = container.ViewRel
		if err := errors.Join(s.Mkdir(container.OutputRel, 0o500), s.GuestGocryptfs(container.Output, cipher, key)); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		if t.fuse, err = s.FuseSpecs(self); err != nil {
			return err
		}
	}
	if err := s.MountGocryptfs(t.view, cipher, key); err != nil {
		return err
	}
	return s.Freeze()
}

// command is as near to a job's as can be without an image.
func (t *trial) command(args ...string) fusefs.Cmd {
	p := t.runtime.Prefix
	bind := t.space.Path(container.TreeRel) + ":" + container.Root
	if t.space.Way() != fusefs.Namespace {
		bind += ":ro"
	}
	env := []string{"PATH=" + t.path, "HOME=" + t.space.Path(container.NoneRel), p + "_BIND=" + bind, p + "_TMPDIR=" + t.space.Path(container.NoneRel)}
	if len(t.fuse) > 0 {
		env = append(env, p+"_FUSESPEC="+strings.Join(t.fuse, ","))
	}
	argv := []string{t.runtime.Path, "-q", "exec", "--containall", "--cleanenv", "--no-mount", "bind-paths,hostfs,cwd", "--no-home",
		"--pwd", container.Output, filepath.Join(t.dir, "box")}
	return fusefs.Cmd{Argv: append(argv, args...), Env: env,
		Stdout: t.space.Path(t.view + "/" + logFile), Stderr: t.space.Path(t.view + "/" + logFile)}
}

// checkRuntime finds the runtime.
func (c NodeCheck) checkRuntime(ctx context.Context) (rt container.Runtime, ok bool) {
	env := []string{"PATH=" + c.Getenv("PATH"), "USER=" + c.Getenv("USER"), "LD_LIBRARY_PATH=" + c.Getenv("LD_LIBRARY_PATH")}
	rt, err := container.Find(ctx, c.Runtime, env)
	var out []byte
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, container.ProbeLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, rt.Path, "--version")
		cmd.Env = container.RuntimeEnv(env)
		out, err = cmd.Output()
	}
	if err != nil {
		c.Report(ui.Finding{What: "container runtime", Bad: true, Detail: err.Error(), Fix: "name its module in [supercomputer] setup, or its path as [supercomputer] runtime"})
		return rt, false
	}
	c.Report(ui.Finding{What: "container runtime", Detail: fmt.Sprintf("%s, %.80s", rt.Path, strings.TrimSpace(string(out)))})
	return rt, true
}

func (c NodeCheck) checkMunge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := (munge.Commands{}).Encode(ctx, fmt.Sprint(os.Geteuid()), []byte("sealbatch doctor")); err != nil {
		c.Report(ui.Finding{What: "MUNGE", Warn: true, Detail: err.Error(), Fix: "without it, jobs can attest by token only (--tier C)"})
		return
	}
	c.Report(ui.Finding{What: "MUNGE", Detail: "makes credentials"})
}

// maxSwaps bounds /proc/swaps, in bytes.
const maxSwaps = 64 << 10

// checkMemory looks for ways in which memory reaches a disk.
func (c NodeCheck) checkMemory() {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err == nil && limit.Max > 0 {
		c.Report(ui.Finding{What: "core dumps", Detail: "allowed here; jobs forbid them for all that they start"})
	}
	f, err := os.Open("/proc/swaps")
	if err != nil {
		return
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSwaps))
	if err == nil && strings.Count(string(b), "\n") > 1 {
		c.Report(ui.Finding{What: "swap", Warn: true, Detail: "this node can write memory to a disk", Fix: "ask the site whether its swap is encrypted"})
	}
}
