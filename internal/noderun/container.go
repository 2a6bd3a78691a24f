package noderun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/fusefs"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Places in the private tmpfs. All of treeRel is bound to containerRoot; the
// image and noneRel, which nobody can write to, stay outside of the container.
const (
	imageRel   = "image"
	noneRel    = "none"
	treeRel    = "sd"
	datasetRel = treeRel + "/encrypted"
	firstRel   = treeRel + "/input" // symbolic link to the first data set
	outputRel  = treeRel + "/output"
	scratchRel = treeRel + "/scratch"
	homeRel    = treeRel + "/home"
	toolsRel   = treeRel + "/tools"
	// In way 3, what the supervisor and the runtime themselves look at.
	viewRel    = "view"
	runtimeRel = "runtime"
)

// Places inside the container: HPCS's, and the home directory.
const (
	containerRoot    = "/sd-container"
	containerOutput  = containerRoot + "/output"
	containerScratch = containerRoot + "/scratch"
	containerHome    = containerRoot + "/home"
	containerTools   = containerRoot + "/tools"
	imageFile        = "image.sif"
)

// Directories in the scratch volume.
const (
	scratchTmp     = "tmp"
	scratchVarTmp  = "vartmp"
	scratchHome    = "home"
	scratchRuntime = "runtime" // the runtime's own cache and configuration
)

// scriptDir is where the scripts of a stage ("input", "output") lie below
// .../tools, as in HPCS.
func scriptDir(stage string) string { return stage + "_logic/jobs" }

// containerRuntime is Apptainer or SingularityCE.
type containerRuntime struct {
	path   string
	prefix string // of its variables: APPTAINER or SINGULARITY
}

// probeLimit is how long the runtime may take to print its version: it may lie
// on a slow network file system.
const probeLimit = 30 * time.Second

// findRuntime finds the runtime that the manifest names, else the first of
// Apptainer and SingularityCE in PATH.
func findRuntime(ctx context.Context, name string, environ []string) (containerRuntime, error) {
	candidates := []string{"apptainer", "singularity"}
	if name != "" {
		candidates = []string{name}
	}
	for _, c := range candidates {
		if path, err := lookRuntime(c, lookup(environ, "PATH")); err == nil {
			return probeRuntime(ctx, path, environ)
		}
	}
	return containerRuntime{}, fmt.Errorf("no container runtime on this node: neither of %s is in PATH; "+
		"name its module in [supercomputer] setup", strings.Join(candidates, ", "))
}

// lookRuntime finds a program in absolute directories of PATH only.
func lookRuntime(name, path string) (string, error) {
	dirs := filepath.SplitList(path)
	if filepath.IsAbs(name) {
		dirs, name = []string{filepath.Dir(name)}, filepath.Base(name)
	}
	if name != filepath.Base(name) || strings.HasPrefix(name, "-") {
		return "", fmt.Errorf("%w: runtime %.80q is neither a name nor an absolute path", manifest.ErrInvalid, name)
	}
	for _, dir := range dirs {
		full := filepath.Join(dir, name)
		if st, err := os.Stat(full); filepath.IsAbs(dir) && err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", os.ErrNotExist
}

// probeRuntime asks the program what it is, since "singularity" is often a link
// to Apptainer.
func probeRuntime(ctx context.Context, path string, environ []string) (containerRuntime, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = runtimeEnv(environ)
	out, err := cmd.Output()
	if err != nil {
		return containerRuntime{}, fmt.Errorf("%s --version: %w", path, err)
	}
	switch version := string(out); {
	case strings.HasPrefix(version, "apptainer"):
		return containerRuntime{path, "APPTAINER"}, nil
	case strings.HasPrefix(version, "singularity"):
		return containerRuntime{path, "SINGULARITY"}, nil
	}
	return containerRuntime{}, fmt.Errorf("%s is neither Apptainer nor SingularityCE: its --version says %.40q", path, out)
}

// runtimeEnv is what the runtime itself sees of the job's environment.
func runtimeEnv(environ []string) []string {
	var out []string
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "USER", "LOGNAME"} {
		if v := lookup(environ, name); v != "" {
			out = append(out, name+"="+v)
		}
	}
	return out
}

// lookup finds a variable in a list of NAME=VALUE; "" if it is not there.
func lookup(environ []string, name string) string {
	for _, v := range environ {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// passedRE is the allow-list of variables that reach the application.
var passedRE = regexp.MustCompile(`^(SLURM_[A-Z0-9_]+|SLURMD_NODENAME|PMI[A-Z0-9_]*|OMP_[A-Z0-9_]+|[A-Z0-9_]+_VISIBLE_DEVICES)$`)

// passed reports whether a variable of the job reaches the application. A
// Slurm token (SLURM_JWT) would let it act as the user outside of the job.
func passed(name string) bool { return passedRE.MatchString(name) && name != "SLURM_JWT" }

// container makes commands that run in the job's image.
type container struct {
	runtime containerRuntime
	space   *fusefs.Space
	flags   manifest.Flags
	environ []string
	fuse    []string // way 3: what the runtime mounts, as --fusemount takes it
}

// run is the image's run script with the application's arguments.
func (c container) run(args []string) fusefs.Cmd { return c.command("run", args) }

// exec is one program of the container.
func (c container) exec(argv ...string) fusefs.Cmd { return c.command("exec", argv) }

func (c container) command(verb string, args []string) fusefs.Cmd {
	pwd := c.flags.Pwd
	if pwd == "" {
		pwd = containerOutput
	}
	argv := []string{
		c.runtime.path, "-q", verb, "--containall", "--cleanenv",
		// What a site's configuration binds into every container, such as its
		// scratch file systems, would be a way out for plaintext.
		"--no-mount", "bind-paths,hostfs,cwd",
		"--home", c.home() + ":" + containerHome,
		"--pwd", pwd,
	}
	argv = append(argv, c.flags.Words...)
	argv = append(argv, c.space.Path(imageRel+"/"+imageFile))
	return fusefs.Cmd{Argv: append(argv, args...), Env: c.env()}
}

func (c container) scratch(name string) string { return c.space.Path(scratchRel + "/" + name) }

// home is bound to the container's home directory. In way 3 it is an empty
// directory on which the runtime mounts.
func (c container) home() string {
	if c.space.Way() == fusefs.Runtime {
		return c.space.Path(homeRel)
	}
	return c.scratch(scratchHome)
}

// runtimeDir is where the runtime keeps what it has of its own.
func (c container) runtimeDir() string {
	if c.space.Way() == fusefs.Runtime {
		return c.space.Path(runtimeRel)
	}
	return c.scratch(scratchRuntime)
}

// env is the runtime's environment. What is for the application carries the
// prefix that --cleanenv lets through.
func (c container) env() []string {
	p := c.runtime.prefix
	root := c.space.Path(treeRel) + ":" + containerRoot
	if c.space.Way() != fusefs.Namespace {
		root += ":ro" // it is no read-only tmpfs then; mounts in it keep their own mode
	}
	binds := []string{root}
	if c.space.Way() != fusefs.Runtime {
		binds = append(binds,
			// Binds come after the home directory is mounted, so it is bound again.
			c.scratch(scratchHome)+":"+containerHome,
			c.scratch(scratchTmp)+":/tmp",
			c.scratch(scratchVarTmp)+":/var/tmp",
		)
	}
	env := append(runtimeEnv(c.environ),
		"HOME="+c.home(),
		p+"_BIND="+strings.Join(binds, ","),
		// Else a shell in the container evaluates $(...) in every variable's value, the job's name included.
		p+"_NO_EVAL=true",
		// An image that cannot be mounted would be unpacked here: it must not.
		p+"_TMPDIR="+c.space.Path(noneRel),
		p+"_CACHEDIR="+c.runtimeDir(),
		p+"_CONFIGDIR="+c.runtimeDir(),
	)
	if len(c.fuse) > 0 {
		// --fusemount as a variable: everybody can read command lines, and data sets' names are in it.
		env = append(env, p+"_FUSESPEC="+strings.Join(c.fuse, ","))
	}
	for _, v := range c.environ {
		if name, _, ok := strings.Cut(v, "="); ok && passed(name) {
			env = append(env, p+"ENV_"+v)
		}
	}
	for _, v := range c.flags.Env {
		env = append(env, p+"ENV_"+v)
	}
	return env
}

// layOut makes the tree of the private tmpfs, but for the volumes.
func layOut(s *fusefs.Space, inputs []manifest.VolumeRef, scripts map[string][]script) error {
	for _, d := range []string{treeRel, datasetRel, homeRel, toolsRel} {
		if err := s.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := s.Mkdir(noneRel, 0o500); err != nil {
		return err
	}
	for stage, list := range scripts {
		dir := toolsRel + "/" + scriptDir(stage)
		if err := errors.Join(s.Mkdir(filepath.Dir(dir), 0o755), s.Mkdir(dir, 0o755)); err != nil {
			return err
		}
		for _, sc := range list {
			if err := s.WriteFile(dir+"/"+sc.name, sc.data, 0o555); err != nil {
				return err
			}
		}
	}
	if len(inputs) == 0 {
		return nil
	}
	return os.Symlink("encrypted/"+inputs[0].Name, s.Outside(firstRel))
}
