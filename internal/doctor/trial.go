package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/nodelocal"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/volume"
)

// modeCures says how a mount mode that does not work is made to.
var modeCures = map[sandbox.Mode]string{
	sandbox.Namespace: "the site may allow user namespaces: sysctl user.max_user_namespaces, " +
		"kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0; not needed if fusermount works",
	sandbox.Fusermount: "the site may install fusermount3 set-uid root (package fuse3), list the user in passwd, " +
		"and without user namespaces make the container runtime set-uid; not needed if namespace works",
	sandbox.Runtime: "needed only where neither other mode works: the container runtime has to be set-uid root, " +
		"and fusermount3 is needed too, for the image",
}

// checkModes tries each mount mode for real.
func (n Node) checkModes(ctx context.Context, place string, rt container.Runtime) {
	if place == "" {
		return
	}
	works := 0
	var closed []string
	for _, mode := range []sandbox.Mode{sandbox.Namespace, sandbox.Fusermount, sandbox.Runtime} {
		if err := n.try(ctx, mode, place, rt, ""); err != nil {
			n.Report.warn("mounts by "+mode.String(), "does not work: "+err.Error(), modeCures[mode])
			continue
		}
		works++
		n.Report.ok("mounts by "+mode.String(), "a container wrote to an encrypted volume, and it was read back")
		if err := n.try(ctx, mode, place, rt, manifest.NetworkNone); err != nil {
			n.Report.warn("no network, mounts by "+mode.String(), "does not work: "+err.Error(), networkCure)
			continue
		}
		closed = append(closed, mode.String())
	}
	if len(closed) > 0 {
		n.Report.ok("no network", "containers get none where an owner demands it, mounts by %s", strings.Join(closed, ", "))
	}
	if works == 0 {
		n.Report.bad("mounts", "no mount mode works here", "one of the three above has to be made to work")
	}
}

const networkCure = "the site may allow network namespaces: sysctl user.max_net_namespaces; " +
	"not needed for data whose owner does not demand network = none"

// try makes a trial below place and removes it; network is as a manifest's.
func (n Node) try(ctx context.Context, mode sandbox.Mode, place string, rt container.Runtime, network string) error {
	dir, err := os.MkdirTemp(place, "doctor.*")
	if err != nil {
		return err
	}
	// What the space left, should it not have closed, is not removed with it.
	defer func() {
		for _, name := range []string{cipherName, boxName} {
			_ = volume.RemoveTree(filepath.Join(dir, name))
		}
		_ = os.Remove(filepath.Join(dir, nodelocal.SpaceName))
		_ = os.Remove(dir)
	}()
	if err := makeTrial(dir); err != nil {
		return err
	}
	s, err := sandbox.NewSpace(ctx, sandbox.SpaceOptions{
		Mode: mode, Dir: filepath.Join(dir, nodelocal.SpaceName), Gocryptfs: n.Gocryptfs, Log: n.Log,
	})
	if err != nil {
		return err
	}
	t := trial{space: s, dir: dir, runtime: rt, path: n.getenv("PATH"), view: container.OutputRel, network: network}
	return errors.Join(t.run(), s.Close())
}

// Names in a trial's directory, besides the space.
const (
	cipherName = "cipher"
	boxName    = "box"
)

// makeTrial makes what a trial needs in its directory.
func makeTrial(dir string) error {
	for _, name := range []string{nodelocal.SpaceName, cipherName, boxName} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(dir, cipherName), -1, os.Getegid()); err != nil {
		return err
	}
	if err := makeBox(filepath.Join(dir, boxName)); err != nil {
		return fmt.Errorf("make an image to try with: %w", err)
	}
	return nil
}

// logFile has what the runtime said.
const logFile = "sealbatch.log"

// Files in the container of a trial: what it seals, and this program.
const (
	boxed   = "/etc/hostname"
	boxSelf = "/bin/sealbatch"
)

// makeBox makes a directory that runtimes take for an image: this program, which
// is static, and the directories that they mount on.
func makeBox(dir string) error {
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "home", "root", container.Root} {
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
	space   *sandbox.Space
	dir     string
	runtime container.Runtime
	path    string   // PATH
	view    string   // where the volume is for this process
	fuse    []string // where the runtime mounts: how it is told to
	network string   // as a manifest's
}

// written is what the container makes in the output volume.
const written = "written"

// run has a container write to the volume, and reads that back.
func (t *trial) run() error {
	key, err := volume.NewKey()
	if err != nil {
		return err
	}
	defer key.Wipe()
	cipher, err := os.OpenRoot(filepath.Join(t.dir, cipherName))
	if err != nil {
		return err
	}
	defer cipher.Close()
	if err := t.mount(cipher, key); err != nil {
		return err
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
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
	return readBack(filepath.Join(out, written), id)
}

// readBack opens what the container wrote.
func readBack(path string, id age.Identity) error {
	f, err := os.Open(path)
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

// mount mounts the volume where a job's output volume is.
func (t *trial) mount(cipher *os.Root, key volume.Key) (err error) {
	s := t.space
	if err := errors.Join(s.Mkdir(container.TreeRel, 0o755), s.Mkdir(container.NoneRel, 0o500)); err != nil {
		return err
	}
	if s.Mode() == sandbox.Runtime {
		t.view = container.ViewRel
		if err := errors.Join(s.Mkdir(container.OutputRel, 0o500), s.AddRuntimeGocryptfs(container.Output, cipher, key)); err != nil {
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
func (t *trial) command(args ...string) sandbox.Cmd {
	p := t.runtime.Prefix
	none := t.space.Path(container.NoneRel)
	env := []string{"PATH=" + t.path, "HOME=" + none, p + "_BIND=" + container.TreeBind(t.space), p + "_TMPDIR=" + none}
	if len(t.fuse) > 0 {
		env = append(env, p+"_FUSESPEC="+strings.Join(t.fuse, ","))
	}
	argv := append(t.runtime.Command("exec"), container.Network(t.network)...)
	argv = append(argv, "--no-home", "--pwd", container.Output, filepath.Join(t.dir, boxName))
	log := t.space.Path(t.view + "/" + logFile)
	return sandbox.Cmd{Argv: append(argv, args...), Env: env, Stdout: log, Stderr: log}
}
