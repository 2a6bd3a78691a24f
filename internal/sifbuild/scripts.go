package sifbuild

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The runtimes interpret what lies in /.singularity.d/env by a shell of their own, in the order of the names, after
// they have put away all variables that come from outside but HOME, PWD and a few that they need. They
// do something more at these two names: the default PATH is completed after the first, and
// what --env, --env-file and APPTAINERENV_ say is exported after the second, and so overrides the image's.
const (
	envImage = "env/10-docker2singularity.sh"
	envBase  = "env/99-base.sh"
)

const shebang = "#!/bin/sh\n"

// variable is what a shell can export.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// envScript returns the script that exports an image's variables, NAME=VALUE, and the names of
// those that no shell can export.
//
// A variable that is set when the script is read stays as it is: HOME, above all. PATH is always the image's.
func envScript(env []string) (script string, dropped []string) {
	var b strings.Builder
	b.WriteString(shebang)
	for _, v := range last(env) {
		name, value, _ := strings.Cut(v, "=")
		switch {
		case !variable.MatchString(name) || strings.Contains(value, "\x00"):
			dropped = append(dropped, name)
		case name == "PATH":
			fmt.Fprintf(&b, "export PATH=%s\n", quote(value))
		default:
			fmt.Fprintf(&b, "if [ -z \"${%s:-}\" ]; then export %s=%s; fi\n", name, name, quote(value))
		}
	}
	return b.String(), dropped
}

// last returns the variables of env, of one that is there more than once the last.
func last(env []string) (out []string) {
	seen := map[string]bool{}
	for _, v := range slices.Backward(env) {
		name, _, _ := strings.Cut(v, "=")
		if !seen[name] {
			out = append(out, v)
		}
		seen[name] = true
	}
	slices.Reverse(out)
	return out
}

// runScript returns what `run` executes. As docker run does, it appends the arguments to the entrypoint, in place
// of the command if there are any, and evaluates nothing. (Apptainer's own evaluates both,
// $HOME and `id` in an argument too, unless it is told --no-eval.)
//
// Its last line is never reached. Where it is there, the runtimes interpret the script themselves, and
// so can run an image that has no shell; where it is not, they start it by /bin/sh.
func runScript(entrypoint, command []string) string {
	var b strings.Builder
	b.WriteString(shebang + "# The image's entrypoint and command; arguments take the command's place, as with docker run.\n")
	if len(command) > 0 {
		fmt.Fprintf(&b, "if [ $# -eq 0 ]; then\n    set -- %s\nfi\n", strings.TrimSuffix(quoteAll(command), " "))
	}
	if len(entrypoint) > 0 {
		fmt.Fprintf(&b, "set -- %s\"$@\"\n", quoteAll(entrypoint))
	}
	if len(entrypoint)+len(command) == 0 {
		b.WriteString("if [ $# -eq 0 ]; then\n    echo 'the image says nothing of what to run: name a program of its' >&2\n" +
			"    exit 127\nfi\n")
	}
	b.WriteString("exec \"$@\"\n# Not reached. By this line the runtime knows that it may interpret the script itself.\n" +
		"eval \"set ${SINGULARITY_OCI_RUN}\"\n")
	return b.String()
}

// action returns one of the scripts by which runtimes before Singularity 3.6 start what
// is asked for; those of today have their own.
func action(last string) string {
	return shebang + "for script in /.singularity.d/env/*.sh; do\n    if [ -f \"$script\" ]; then\n        . \"$script\"\n    fi\ndone\n" + last
}

// scripts are the files below /.singularity.d that are the same in every image.
var scripts = map[string]string{
	"actions/exec":  action("exec \"$@\"\n"),
	"actions/run":   action("exec /.singularity.d/runscript \"$@\"\n"),
	"actions/start": shebang + "kill -CONT 1\n" + strings.TrimPrefix(action("exec /.singularity.d/startscript \"$@\"\n"), shebang),
	"actions/shell": action("if [ -x /bin/bash ]; then\n    exec /bin/bash --norc \"$@\"\nfi\nexec /bin/sh \"$@\"\n"),
	"actions/test":  action("if [ -x /.singularity.d/test ]; then\n    exec /.singularity.d/test \"$@\"\nfi\n"),
	// Where the image's environment can be added to.
	"env/90-environment.sh": shebang,
	// Programs of the Scientific Filesystem, which `run --app` names.
	"env/95-apps.sh": shebang + `if [ -n "${SINGULARITY_APPNAME:-}" ]; then
    SCIF_APPS=/scif/apps
    SCIF_APPROOT=$SCIF_APPS/$SINGULARITY_APPNAME
    if [ ! -d "$SCIF_APPROOT" ]; then
        echo "the image has no application $SINGULARITY_APPNAME" >&2
        exit 1
    fi
    PATH=$SCIF_APPROOT/bin:$SCIF_APPROOT:$PATH
    LD_LIBRARY_PATH=$SCIF_APPROOT/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export SINGULARITY_APPNAME SCIF_APPS SCIF_APPROOT PATH LD_LIBRARY_PATH
    for script in "$SCIF_APPROOT"/scif/env/*.sh; do
        if [ -f "$script" ]; then
            . "$script"
        fi
    done
fi
`,
	// The runtime binds the libraries that --nv and --rocm bring to /.singularity.d/libs.
	envBase: shebang + `LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs
PS1=${PS1:-'Apptainer> '}
export LD_LIBRARY_PATH PS1
`,
	"startscript": shebang,
}
