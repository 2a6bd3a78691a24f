package manifest

import (
	"fmt"
	"regexp"
	"strings"
)

// Flags are a submitter's container runtime flags, sorted by how they reach
// the runtime.
type Flags struct {
	// Env are NAME=VALUE pairs for the application. They travel in the
	// runtime's environment, since a command line shows to other users.
	Env []string
	// Words go on the runtime's command line, in the order given.
	Words []string
	// Pwd is the working directory inside the container; "" is the default.
	Pwd string
	// HostBinds says that Words opens paths of the node to the application:
	// every volume's policy must permit it.
	HostBinds bool
}

// flagUse says what becomes of one runtime flag.
type flagUse int

const (
	useWord     flagUse = iota + 1 // passed on; takes no value
	useValue                       // passed on with its value
	useHostBind                    // likewise, and opens paths of the node
	useEnv
	usePwd
	useAlways // set for every job already; dropped
)

// flagUses are the flags that Apptainer 1.x and SingularityCE 3.x and 4.x
// share and that cannot weaken the containment of a job. Every other one is
// refused: most name files of the node, change who the job runs as, or unpack
// the image.
var flagUses = map[string]flagUse{
	"--nv": useWord, "--nvccli": useWord, "--rocm": useWord,
	"--writable-tmpfs": useWord, "--no-init": useWord, "--no-umask": useWord,
	"--no-privs": useWord, "--no-eval": useWord, "--userns": useWord, "-u": useWord,
	"--uts": useWord, "--no-nv": useWord, "--no-rocm": useWord,
	"--hostname": useValue, "--no-mount": useValue, "--app": useValue,
	"--bind": useHostBind, "-B": useHostBind, "--mount": useHostBind,
	"--overlay": useHostBind, "-o": useHostBind,
	"--env": useEnv, "--pwd": usePwd, "--cwd": usePwd,
	"--contain": useAlways, "-c": useAlways, "--containall": useAlways, "-C": useAlways,
	"--cleanenv": useAlways, "-e": useAlways, "--pid": useAlways, "-p": useAlways,
	"--ipc": useAlways, "-i": useAlways, "--quiet": useAlways, "-q": useAlways,
	"--silent": useAlways, "-s": useAlways, "--disable-cache": useAlways,
}

// flagHints says what to do instead of some flags that are refused.
var flagHints = map[string]string{
	"--env-file": "give each variable with --env",
	"--home":     "the home directory is /sd-container/home, in the encrypted scratch volume",
	"-H":         "the home directory is /sd-container/home, in the encrypted scratch volume",
	"--no-home":  "the home directory is /sd-container/home, in the encrypted scratch volume",
	"--workdir":  "/tmp and /var/tmp lie in the encrypted scratch volume already",
	"-W":         "/tmp and /var/tmp lie in the encrypted scratch volume already",
	"--scratch":  "use /sd-container/scratch",
	"-S":         "use /sd-container/scratch",
	"--net":      "job-prep --network none runs the job without a network",
	"--network":  "job-prep --network none runs the job without a network",
}

var (
	envNameRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// A second assignment after a comma, which the runtimes would split off.
	envListRE = regexp.MustCompile(`,[A-Za-z_][A-Za-z0-9_]*=`)
)

// ParseFlags sorts a submitter's runtime flags, one word each, and refuses
// with ErrInvalid what a job may not change.
func ParseFlags(words []string) (Flags, error) {
	var f Flags
	for i := 0; i < len(words); i++ {
		name, value, inline := words[i], "", false
		if strings.HasPrefix(name, "--") {
			name, value, inline = strings.Cut(name, "=")
		}
		use, ok := flagUses[name]
		if !ok {
			return Flags{}, flagRefused(name)
		}
		takesValue := use != useWord && use != useAlways
		switch {
		case !takesValue && inline:
			return Flags{}, fmt.Errorf("%w: runtime flag %s takes no value", ErrInvalid, name)
		case takesValue && !inline:
			if i++; i == len(words) {
				return Flags{}, fmt.Errorf("%w: runtime flag %s needs a value", ErrInvalid, name)
			}
			value = words[i]
		}
		if err := f.add(use, name, value); err != nil {
			return Flags{}, err
		}
	}
	return f, nil
}

func (f *Flags) add(use flagUse, name, value string) error {
	switch use {
	case useWord:
		f.Words = append(f.Words, name)
	case useValue:
		f.Words = append(f.Words, name, value)
	case useHostBind:
		f.Words = append(f.Words, name, value)
		f.HostBinds = true
	case usePwd:
		if err := validPath(value); err != nil {
			return fmt.Errorf("runtime flag %s: %w", name, err)
		}
		f.Pwd = value
	case useEnv:
		return f.addEnv(value)
	}
	return nil
}

func (f *Flags) addEnv(pair string) error {
	name, value, ok := strings.Cut(pair, "=")
	if !ok || !envNameRE.MatchString(name) {
		return fmt.Errorf("%w: runtime flag --env needs NAME=VALUE, not %.80q", ErrInvalid, pair)
	}
	if name == "HOME" {
		return fmt.Errorf("%w: runtime flag --env cannot set HOME: %s", ErrInvalid, flagHints["--home"])
	}
	if envListRE.MatchString(value) {
		return fmt.Errorf("%w: runtime flag --env holds several variables: give each with its own --env", ErrInvalid)
	}
	f.Env = append(f.Env, name+"="+value)
	return nil
}

func flagRefused(name string) error {
	switch hint := flagHints[name]; {
	case hint != "":
		return fmt.Errorf("%w: runtime flag %s is not available: %s", ErrInvalid, name, hint)
	case !strings.HasPrefix(name, "-"):
		return fmt.Errorf("%w: %.80q is not a runtime flag: arguments of the application are given apart", ErrInvalid, name)
	}
	return fmt.Errorf("%w: runtime flag %.80q is not one that a job may use", ErrInvalid, name)
}
