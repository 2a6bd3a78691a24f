package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// transport is how an image is had. What a name has before its first colon says it, as
// containers-transports(5) has them.
type transport string

const (
	viaNothing  transport = ""
	viaRegistry transport = "docker"
	viaFile     transport = "oci" // and its sisters: what is there decides what it is
	viaDaemon   transport = "docker-daemon"
)

var transports = map[string]transport{
	"docker": viaRegistry, "oci": viaFile, "oci-archive": viaFile, "docker-archive": viaFile, "docker-daemon": viaDaemon,
}

// elsewhere are transports that other programs have, with the way round.
var elsewhere = map[string]string{
	"library":            "apptainer pull IMAGE.sif %s makes a .sif file, which -b takes",
	"shub":               "Singularity Hub has closed; if apptainer pull IMAGE.sif %s still fetches it, -b takes the .sif file",
	"oras":               "apptainer pull IMAGE.sif %s fetches the .sif file, which -b takes",
	"http":               "fetch the file first, for instance with curl; -b takes it",
	"https":              "fetch the file first, for instance with curl; -b takes it",
	"ftp":                "fetch the file first, for instance with curl; -b takes it",
	"instance":           "name the image from which the instance was started",
	"docker-image":       "write docker://REFERENCE",
	"containers-storage": "podman save --format oci-archive -o FILE IMAGE writes a file, which -b takes",
	"dir":                "skopeo copy %s oci-archive:FILE makes a file, which -b takes",
	"ostree":             "skopeo copy %s oci-archive:FILE makes a file, which -b takes",
	"sif":                "name the .sif file alone",
	"file":               "name the file alone",
	"localimage":         "name the file alone",
	"atomic":             "write docker://REFERENCE",
	"oci-sif":            "apptainer build IMAGE.sif %s makes a .sif file, which -b takes",
}

// splitName splits what -b says into transport and the rest. One that cannot be had is ErrFormat.
func splitName(name string) (transport, string, error) {
	scheme, rest, ok := strings.Cut(name, ":")
	url := strings.HasPrefix(rest, "//")
	t, known := transports[scheme]
	hint, refused := elsewhere[scheme]
	switch {
	case strings.TrimSpace(strings.TrimPrefix(rest, "//")) == "" && (ok && known || strings.TrimSpace(name) == ""):
		return "", "", refuse(name, "it names none", "name a file, a directory, or an image of a registry: docker://HOST/REPOSITORY:TAG")
	case !ok || strings.ContainsAny(scheme, "/."):
		return viaNothing, name, nil
	case known && t == viaRegistry && !url: // an image called docker
		return viaNothing, name, nil
	case known:
		return t, strings.TrimPrefix(rest, "//"), nil
	case refused && (url || pathLike(scheme, rest)):
		return "", "", refuse(name, "from "+scheme+": nothing is read", strings.ReplaceAll(hint, "%s", text.Printable(name)))
	case url:
		return "", "", refuse(name, "there is no source "+scheme+"://", "-b takes a .sif file, docker://REFERENCE, "+
			"docker-daemon:REFERENCE, oci:DIRECTORY[:TAG], oci-archive:FILE[:TAG] and docker-archive:FILE[:REFERENCE]")
	}
	return viaNothing, name, nil
}

// pathLike reports whether scheme:rest can hardly be an image's name and tag: "dir:1.2" is one.
func pathLike(scheme, rest string) bool {
	return scheme == "containers-storage" || scheme == "docker-image" || strings.Contains(rest, "/")
}

// splitPath splits what follows a transport into the path of what is there and what
// chooses an image in it: "", ":TAG", "@sha256:...", "@INDEX". Paths may have colons.
func splitPath(s string) (path, choice string, err error) {
	for end := len(s); end > 0; end = strings.LastIndexAny(s[:end], ":@") {
		if _, err := os.Stat(s[:end]); err == nil {
			return s[:end], strings.Replace(s[end:], ":@", "@", 1), nil
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return "", "", err
		}
	}
	first, _, _ := strings.Cut(s, ":")
	if first == "" {
		return "", "", errors.New("it names no file")
	}
	return "", "", &fs.PathError{Op: "open", Path: first, Err: syscall.ENOENT}
}

// namesFile reports whether a bare name can only be meant as a file's, maybe with a choice after it.
func namesFile(s string) bool {
	if end := strings.IndexAny(s, ":@"); end > 0 {
		s = s[:end]
	}
	for _, begin := range []string{"/", "./", "../", "~"} {
		if strings.HasPrefix(s, begin) {
			return true
		}
	}
	return s == "." || s == ".." || strings.HasSuffix(s, "/") || stem(s) != s
}

// endings are those of files that hold images.
var endings = []string{".sif", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".oci", ".img", ".simg"}

// stem returns s without the ending of a file that holds an image.
func stem(s string) string {
	for _, e := range endings {
		if t := strings.TrimSuffix(s, e); t != s && t != "" {
			return t
		}
	}
	return s
}

// fileName returns a name for the image in the file or directory at p.
func fileName(p string) string { return safeName(stem(filepath.Base(p))) }

// repositoryName returns a name for the image of a reference: "jp2a" of
// "docker.io/talinx/jp2a:1.0@sha256:...".
func repositoryName(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	base := path.Base(ref)
	base, _, _ = strings.Cut(base, ":")
	return safeName(base)
}

// maxSafe is how long a made name is at most, so that there is room for what is put around it.
const maxSafe = 100

// safeName makes s a name for a file that needs no quoting anywhere.
func safeName(s string) string {
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._+-", r):
			return r
		}
		return '_'
	}, s)
	out = strings.TrimLeft(out[:min(len(out), maxSafe)], "-.")
	if strings.Trim(out, "._") == "" {
		return "image"
	}
	return out
}

// refuse says that name means nothing that can be read.
func refuse(name, why, hint string) error {
	return fault.New(fault.Usage, fmt.Errorf("image %s: %w: %s", text.Printable(name), ErrFormat, why), hint)
}
