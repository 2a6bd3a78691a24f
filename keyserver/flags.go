package keyserver

import "strings"

// harmlessFlags are the runtime's flags (Apptainer and SingularityCE 3.11 to
// 4.x, `exec --help`) that bring no path of the node that the user chose into
// the container and give it no further rights. The value says whether a word
// follows. --nv and --rocm bind the driver's libraries, which the
// administrator chose.
var harmlessFlags = map[string]bool{
	"--nv": false, "--nvccli": false, "--rocm": false,
	"--contain": false, "-c": false, "--containall": false, "-C": false,
	"--cleanenv": false, "-e": false, "--no-home": false, "--no-init": false, "--no-umask": false,
	"--ipc": false, "-i": false, "--pid": false, "-p": false, "--uts": false, "--userns": false, "-u": false,
	"--no-privs": false, "--no-eval": false, "--compat": false, "--disable-cache": false, "--writable-tmpfs": false,
	"--no-mount": true, "--env": true, "--pwd": true, "--cwd": true, "--hostname": true, "--app": true,
	"--cpus": true, "--cpu-shares": true, "--memory": true, "--memory-swap": true, "--pids-limit": true, "--oom-kill-disable": false,
}

// NeedsHostBinds reports whether a runtime's flags might bring paths of the
// node into the container (-B, --bind, --mount, --volume, --fusemount,
// --overlay, --home, --scratch, --workdir, ...) or loosen its confinement. It
// goes by a list of flags that are known not to: what it does not know needs
// the owners' permission. Elements with blanks count as several words.
func NeedsHostBinds(flags []string) bool {
	words := strings.Fields(strings.Join(flags, " "))
	for i := 0; i < len(words); i++ {
		name, value, hasValue := strings.Cut(words[i], "=")
		takesValue, known := harmlessFlags[name]
		switch {
		case !known:
			return true
		case hasValue && takesValue && value != "":
		case hasValue: // --nv=true is a flag, too, but so is --contain=false
			return true
		case takesValue:
			i++
			if i == len(words) || strings.HasPrefix(words[i], "-") {
				return true
			}
		}
	}
	return false
}
