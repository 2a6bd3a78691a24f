package container

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sandbox"
)

// Script is a verification script whose bytes have been checked, or what one reads.
type Script struct {
	manifest.FileRef
	Data []byte
}

// Places in the private tmpfs. All of TreeRel is bound to Root; the
// image and NoneRel, which nobody can write to, stay outside of the container.
const (
	ImageRel   = "image"
	NoneRel    = "none"
	TreeRel    = "sd"
	DatasetRel = TreeRel + "/encrypted"
	FirstRel   = TreeRel + "/input" // symbolic link to the first dataset
	OutputRel  = TreeRel + "/output"
	ScratchRel = TreeRel + "/scratch"
	HomeRel    = TreeRel + "/home"
	KeysRel    = TreeRel + "/keys" // as in HPCS, and empty
	ToolsRel   = TreeRel + "/tools"
	// In mode runtime, what the supervisor and the runtime themselves look at.
	ViewRel    = "view"
	RuntimeRel = "runtime"
)

// Places inside the container: HPCS's, and the home directory.
const (
	Root    = "/sd-container"
	Dataset = Root + "/encrypted" // with each dataset in it
	Output  = Root + "/output"
	Scratch = Root + "/scratch"
	Home    = Root + "/home"
	Tools   = Root + "/tools"
)

// Directories in the scratch volume.
const (
	ScratchTmp     = "tmp"
	ScratchVarTmp  = "vartmp"
	ScratchHome    = "home"
	ScratchRuntime = "runtime" // the runtime's own cache and configuration
)

// ScriptDir returns where the scripts of a stage ("input", "output") lie below
// .../tools, as in HPCS.
func ScriptDir(stage string) string { return stage + "_logic/jobs" }

// HPCS's container-prep gives images an entry point that runs these, its own scripts, before and after the application. What
// they do, the supervisor does.
const (
	driver     = "run.sh"
	driverText = "#!/bin/sh\nexit 0\n"
)

// passedRE is the allow-list of variables that reach the application.
var passedRE = regexp.MustCompile(`^(SLURM_[A-Z0-9_]+|SLURMD_NODENAME|PMI[A-Z0-9_]*|OMP_[A-Z0-9_]+|[A-Z0-9_]+_VISIBLE_DEVICES)$`)

// passed reports whether a variable of the job reaches the application. A
// Slurm token (SLURM_JWT) would let it act as the user outside of the job.
func passed(name string) bool { return passedRE.MatchString(name) && name != "SLURM_JWT" }

// TreeBind returns the bind of a space's tree to Root, as the runtimes' _BIND has it.
func TreeBind(s *sandbox.Space) string {
	bind := s.Path(TreeRel) + ":" + Root
	if s.Mode() != sandbox.Namespace {
		bind += ":ro" // it is no read-only tmpfs then; mounts in it keep their own mode
	}
	return bind
}

// Commands builds the commands that run in a job's image.
type Commands struct {
	Runtime Runtime
	Space   *sandbox.Space
	Flags   manifest.Flags
	Pwd     string   // working directory, if Flags have none: Output, if empty
	Environ []string // the job's, of which only allowed variables reach the application
	Fuse    []string // mode runtime: what the runtime mounts, as --fusemount takes it
	Network string   // manifest.NetworkNone, or empty
	// Prepared is the image's (manifest.Image).
	Prepared string
}

// Run returns the command that runs the image's run script with the application's arguments.
func (c Commands) Run(args []string) sandbox.Cmd {
	if c.Prepared == manifest.PreparedHPCS {
		args = append([]string{"--"}, args...)
	}
	return c.command("run", args)
}

// Exec returns the command that runs a program of the image.
func (c Commands) Exec(argv ...string) sandbox.Cmd { return c.command("exec", argv) }

func (c Commands) command(verb string, args []string) sandbox.Cmd {
	pwd := cmp.Or(c.Flags.Pwd, c.Pwd, Output)
	argv := append(c.Runtime.Command(verb), "--home", c.home()+":"+Home, "--pwd", pwd)
	argv = append(argv, c.Flags.Words...)
	argv = append(argv, Network(c.Network)...)
	argv = append(argv, c.Space.Path(ImageRel+"/"+manifest.ImageFile))
	return sandbox.Cmd{Argv: append(argv, args...), Env: c.env()}
}

func (c Commands) scratch(name string) string { return c.Space.Path(ScratchRel + "/" + name) }

// home returns the directory that is bound to the container's home directory. In mode runtime, it is an empty
// directory on which the runtime mounts.
func (c Commands) home() string {
	if c.Space.Mode() == sandbox.Runtime {
		return c.Space.Path(HomeRel)
	}
	return c.scratch(ScratchHome)
}

// runtimeDir returns the directory for the runtime's own cache and configuration.
func (c Commands) runtimeDir() string {
	if c.Space.Mode() == sandbox.Runtime {
		return c.Space.Path(RuntimeRel)
	}
	return c.scratch(ScratchRuntime)
}

// env returns the runtime's environment. What is for the application carries the
// prefix that --cleanenv lets through.
func (c Commands) env() []string {
	p := c.Runtime.Prefix
	binds := []string{TreeBind(c.Space)}
	if c.Space.Mode() != sandbox.Runtime {
		binds = append(binds,
			// Binds come after the home directory is mounted, so it is bound again.
			c.scratch(ScratchHome)+":"+Home,
			c.scratch(ScratchTmp)+":/tmp",
			c.scratch(ScratchVarTmp)+":/var/tmp",
		)
	}
	env := append(runtimeEnv(c.Environ),
		"HOME="+c.home(),
		p+"_BIND="+strings.Join(binds, ","),
		// Else a shell in the container evaluates $(...) in every variable's value, the job's name included.
		p+"_NO_EVAL=true",
		// An image that cannot be mounted would be unpacked here: it must not.
		p+"_TMPDIR="+c.Space.Path(NoneRel),
		p+"_CACHEDIR="+c.runtimeDir(),
		p+"_CONFIGDIR="+c.runtimeDir(),
	)
	if len(c.Fuse) > 0 {
		// --fusemount as a variable: everybody can read command lines, and the names of datasets are in it.
		env = append(env, p+"_FUSESPEC="+strings.Join(c.Fuse, ","))
	}
	for _, v := range c.Environ {
		if name, _, ok := strings.Cut(v, "="); ok && passed(name) {
			env = append(env, p+"ENV_"+v)
		}
	}
	for _, v := range c.Flags.Env {
		env = append(env, p+"ENV_"+v)
	}
	return env
}

// layOutScripts writes a stage's scripts, and what they read, below dir.
func layOutScripts(s *sandbox.Space, dir string, scripts []Script) error {
	var refs []manifest.FileRef
	for _, sc := range scripts {
		refs = append(refs, sc.FileRef)
	}
	for _, d := range manifest.Parents(refs) {
		if err := s.Mkdir(dir+"/"+d, 0o755); err != nil {
			return err
		}
	}
	for _, sc := range scripts {
		perm := os.FileMode(0o444)
		if sc.Exec {
			perm = 0o555
		}
		if err := s.WriteFile(dir+"/"+sc.Name, sc.Data, perm); err != nil {
			return err
		}
	}
	return nil
}

// LayOut makes the tree of the private tmpfs, but for the volumes.
func LayOut(s *sandbox.Space, inputs []manifest.VolumeRef, scripts map[string][]Script) error {
	for _, d := range []string{TreeRel, DatasetRel, HomeRel, KeysRel, ToolsRel} {
		if err := s.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := s.Mkdir(NoneRel, 0o500); err != nil {
		return err
	}
	for stage, list := range scripts {
		dir := ToolsRel + "/" + ScriptDir(stage)
		if err := errors.Join(s.Mkdir(filepath.Dir(dir), 0o755), s.Mkdir(dir, 0o755)); err != nil {
			return err
		}
		if err := layOutScripts(s, dir, list); err != nil {
			return err
		}
	}
	for _, stage := range []string{jobdir.InputStage, jobdir.OutputStage} {
		dir := ToolsRel + "/" + filepath.Dir(ScriptDir(stage))
		if err := s.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := s.WriteFile(dir+"/"+driver, []byte(driverText), 0o555); err != nil {
			return err
		}
	}
	if len(inputs) == 0 {
		return nil
	}
	return os.Symlink("encrypted/"+inputs[0].Name, s.Outside(FirstRel))
}
