package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// apptainer is the test cluster's root file system, whose Apptainer makes and runs images, in a mount namespace of its own.
type apptainer struct {
	holder *exec.Cmd // its first process; the run's directory is /mnt there
}

// enterScript makes the root, goes there and keeps the namespace until it is killed. Nothing is written into the root that is cached.
const enterScript = `set -e
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" none "$2/root"
mount -t proc proc "$2/root/proc"
mount --rbind /dev "$2/root/dev"
mount --bind "$3" "$2/root/mnt"
mkdir "$2/root/media/sealed"
chown 2001:2001 "$2/root/media/sealed"
cd "$2/root"
mkdir old
pivot_root . old
umount -l old
echo ready
exec sleep infinity`

// startApptainer finds the root file system, which is made if there is none, unless it is known.
func (b *bench) startApptainer(ctx context.Context) error {
	if b.rootfs == "" {
		tools, err := b.command(ctx, b.cluster, "tools")
		if err != nil {
			return err
		}
		b.rootfs = filepath.Join(filepath.Dir(strings.TrimSpace(tools)), "rootfs")
	}
	if b.skip != nil && b.skip.MatchString("apptainer build") {
		return nil
	}
	base := b.path("apptainer")
	if err := os.Mkdir(base, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(b.root, 0o755); err != nil { // containers run as somebody else
		return err
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", enterScript, "sh", b.rootfs, base, b.root)
	said := new(tail)
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.undo = append(b.undo, func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // says that it was killed
		return err
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		return fmt.Errorf("the test cluster's root file system: %s", said)
	}
	b.app = apptainer{cmd}
	return nil
}

// enter returns a command in the namespace. (It is no chroot: there, user namespaces are refused.)
func (b *bench) enter(ctx context.Context, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(b.app.holder.Process.Pid), "-m", "--"}, argv...)...)
}

// apptainerBuild makes a SIF file of the image, all on the tmpfs, without the caches that another build would profit from.
func (b *bench) apptainerBuild(ctx context.Context) (*exec.Cmd, error) {
	tmp := b.path("apptainer/tmp")
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o755), os.RemoveAll(b.imagePath("reference.sif"))); err != nil {
		return nil, err
	}
	in := "/mnt/" + imageDir
	return b.enter(ctx, "env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/mnt/apptainer/tmp",
		"APPTAINER_TMPDIR=/mnt/apptainer/tmp", "APPTAINER_CACHEDIR=/mnt/apptainer/tmp",
		"apptainer", "--quiet", "build", "--force", in+"/reference.sif", "oci:"+in+"/oci"), nil
}

// startRow is a container's start, until its program has ended, which does nothing.
const startRow = "start of a container: mount, run true"

// starting compares the start from a sealed image with that from the same SIF file.
func (b *bench) starting(ctx context.Context) error {
	if b.app.holder == nil || !b.only.MatchString(startRow) {
		return nil
	}
	sealed, sif := b.imagePath("image.sealed"), b.imagePath("ours.sif")
	if _, err := b.command(ctx, "cp", b.sealbatch(), b.path("sealbatch")); err != nil {
		return err
	}
	if err := errors.Join(convertImage(ctx, "oci:"+b.imagePath("oci"), sif),
		prepareImage(ctx, "oci:"+b.imagePath("oci"), sealed, b.recipient)); err != nil {
		return err
	}
	for _, file := range []string{sealed, b.identity} { // whoever runs containers has keys and files of their own
		if err := os.Chown(file, 2001, 2001); err != nil {
			return err
		}
	}
	return b.contests(ctx, "Starting", contest{what: startRow, short: true, ours: contender{run: b.runSealed}, rest: []contender{
		{"the same SIF file, not sealed", 0, func(ctx context.Context) (time.Duration, error) {
			begin := time.Now()
			err := b.runTrue(ctx, "/mnt/"+imageDir+"/ours.sif")
			return time.Since(begin), err
		}}}})
}

// asAlice returns a command in the root, of the test cluster's alice, who has no privileges.
func (b *bench) asAlice(ctx context.Context, argv ...string) *exec.Cmd {
	return b.enter(ctx, append([]string{"setpriv", "--reuid=2001", "--regid=2001", "--clear-groups", "--",
		"env", "-i", "PATH=/usr/bin", "HOME=/tmp"}, argv...)...)
}

func (b *bench) runTrue(ctx context.Context, sif string) error {
	cmd := b.asAlice(ctx, "apptainer", "--quiet", "exec", "--containall", "--no-home", sif, "true")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apptainer exec: %w\n%s", err, out)
	}
	return nil
}

// runSealed mounts a volume as jobs do, runs a container from it and unmounts it.
func (b *bench) runSealed(ctx context.Context) (took time.Duration, err error) {
	begin := time.Now()
	m := b.asAlice(ctx, "/mnt/sealbatch", "mount", "/mnt/"+imageDir+"/image.sealed", "/media/sealed", "-i", "/mnt/identity")
	said := new(tail)
	m.Stderr = said
	if err := m.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Wait() }()
	// A FUSE file system of another's is closed to us, but that it is one is seen.
	for seen := fmt.Sprintf("/proc/%d/mountinfo", b.app.holder.Process.Pid); ; time.Sleep(time.Millisecond) {
		if mounts, _ := os.ReadFile(seen); strings.Contains(string(mounts), " /media/sealed ") {
			break
		}
		if time.Since(begin) > time.Minute || ctx.Err() != nil {
			return 0, errors.Join(fmt.Errorf("it does not mount: %s", said), m.Process.Kill(), <-ended)
		}
	}
	err = b.runTrue(ctx, "/media/sealed/image.sif")
	took = time.Since(begin)
	return took, errors.Join(err, m.Process.Signal(os.Interrupt), <-ended)
}

// tail keeps the end of what a program says.
type tail struct{ text []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-4096):]
	return len(p), nil
}

// String returns what was kept.
func (t *tail) String() string { return string(t.text) }
