package container

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Runtime is Apptainer or SingularityCE.
type Runtime struct {
	Path   string
	Prefix string // of its variables: APPTAINER or SINGULARITY
	// Version is what its --version prints.
	Version string
}

// probeLimit is how long the runtime may take to print its version: it may lie
// on a slow network file system.
const probeLimit = 30 * time.Second

// Find returns the runtime that the manifest names, else the first of Apptainer
// and SingularityCE in PATH.
func Find(ctx context.Context, name string, environ []string) (Runtime, error) {
	candidates := []string{"apptainer", "singularity"}
	if name != "" {
		candidates = []string{name}
	}
	for _, c := range candidates {
		if path, err := lookRuntime(c, Lookup(environ, "PATH")); err == nil {
			return probeRuntime(ctx, path, environ)
		}
	}
	return Runtime{}, fmt.Errorf("no container runtime on this node: neither of %s is in PATH; "+
		"name its module in [supercomputer] setup", strings.Join(candidates, ", "))
}

// lookRuntime returns the path of a program, looking in absolute directories of PATH only.
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

// probeRuntime runs the program's --version to see which runtime it is, since "singularity" is often a link
// to Apptainer.
func probeRuntime(ctx context.Context, path string, environ []string) (Runtime, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = runtimeEnv(environ)
	out, err := cmd.Output()
	if err != nil {
		return Runtime{}, fmt.Errorf("%s --version: %w", path, err)
	}
	version := strings.TrimSpace(string(out))
	switch {
	case strings.HasPrefix(version, "apptainer"):
		return Runtime{path, "APPTAINER", version}, nil
	case strings.HasPrefix(version, "singularity"):
		return Runtime{path, "SINGULARITY", version}, nil
	}
	return Runtime{}, fmt.Errorf("%s is neither Apptainer nor SingularityCE: its --version says %.40q", path, out)
}

// runtimeEnv returns the variables of the job's environment that the runtime itself sees.
func runtimeEnv(environ []string) []string {
	var out []string
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "USER", "LOGNAME"} {
		if v := Lookup(environ, name); v != "" {
			out = append(out, name+"="+v)
		}
	}
	return out
}

// Lookup returns the value of a variable in a list of NAME=VALUE, "" if it is not there.
func Lookup(environ []string, name string) string {
	for _, v := range environ {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// Network returns the runtime's flags for a manifest's network. Both runtimes let
// every user have none, by user namespaces and set-uid; where the node lets nobody make
// network namespaces they do not start the container.
func Network(network string) []string {
	if network == "" {
		return nil
	}
	return []string{"--net", "--network", network}
}

// Command returns the beginning of a command line that runs a contained command;
// verb is "run" or "exec".
func (r Runtime) Command(verb string) []string {
	return []string{
		r.Path, "-q", verb, "--containall", "--cleanenv",
		// What a site's configuration binds into every container, such as its
		// scratch file systems, would be a way out for plaintext.
		"--no-mount", "bind-paths,hostfs,cwd",
	}
}
