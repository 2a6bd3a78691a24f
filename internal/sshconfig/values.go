package sshconfig

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// ErrConfig is wrapped by errors about what a configuration says.
var ErrConfig = errors.New("ssh_config")

// Query is what is asked: the host as it was typed, and what was said beside it.
type Query struct {
	Host string
	User string // "" means the configuration's
	Port int    // 0 means the configuration's
	// File is read instead of ~/.ssh/config and the system's, as with ssh -F; "" means these two, "none" no file.
	File string
}

// Values are what a configuration says: the keyword in lower case, and its values as ssh -G writes them.
// Paths of keys, certificates and revoked keys still have their tokens (Expand).
type Values map[string][]string

// Get returns a keyword's first value; "" if there is none.
func (v Values) Get(keyword string) string {
	if all := v[keyword]; len(all) > 0 {
		return all[0]
	}
	return ""
}

// Int returns a keyword's first value as a number; 0 if it is none.
func (v Values) Int(keyword string) int {
	n, err := strconv.Atoi(v.Get(keyword))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// kind is how a keyword's arguments are read.
type kind int

const (
	word       kind = iota // one argument
	number                 // one number
	span                   // one time, in seconds or as 1m30s
	choice                 // one of some words
	each                   // one argument, and every line counts
	files                  // a list, whose first line counts
	restOfLine             // the rest of the line as it is
	jump                   // likewise, of jump hosts
	keylist                // algorithms, with + - ^
)

// Keywords are those that are read, and that Read and Ask agree on.
var Keywords = map[string]kind{
	"hostname": word, "user": word, "hostkeyalias": word, "bindaddress": word, "identityagent": word, "tag": word,
	"canonicaldomains": files, "canonicalizemaxdots": number,
	"port": number, "serveralivecountmax": number, "connecttimeout": span, "serveraliveinterval": span,
	"identitiesonly": choice, "addressfamily": choice, "stricthostkeychecking": choice, "proxyusefdpass": choice,
	"canonicalizehostname": choice, "identityfile": each, "certificatefile": each,
	"userknownhostsfile": files, "globalknownhostsfile": files, "revokedhostkeys": files,
	"proxycommand": restOfLine, "proxyjump": jump, "hostkeyalgorithms": keylist,
}

// person is who asks, as the machine's user database has them.
type person struct {
	name, home string
	ssh        string // directory of keys and configuration
	known      bool   // in the user database, with that home and its .ssh: ssh reads the same files
}

// place returns a path, of which ~/.ssh at the beginning is where that really is.
func (p person) place(path string) string {
	rest, ok := strings.CutPrefix(path, filepath.Join(p.home, ".ssh"))
	if !ok || rest != "" && rest[0] != '/' {
		return path
	}
	return p.ssh + rest
}

// whoAmI returns the user; $HOME, where it is set, says where the home directory is.
var whoAmI = sync.OnceValue(func() person {
	var p person
	u, err := sitecmd.Lookup(context.Background(), strconv.Itoa(os.Getuid()))
	if err == nil {
		p = person{name: u.Name, home: u.Home, known: true}
	}
	if home := os.Getenv("HOME"); home != "" && filepath.Clean(home) != filepath.Clean(p.home) {
		p.home, p.known = home, false
	}
	if p.name == "" {
		p.name = os.Getenv("USER")
	}
	p.ssh = filepath.Join(p.home, ".ssh")
	if _, err := os.Stat(p.ssh); err != nil {
		if dir := userdirs.SSH(); dir != "" && dir != p.ssh {
			p.ssh, p.known = dir, false
		}
	}
	return p
})

// Look returns what the configuration says of a host: ssh's own answer where there is an ssh that
// would read the same files, else that of Read. Errors wrap ErrConfig, or are of files that cannot be used.
func Look(ctx context.Context, q Query) (Values, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	ssh, err := exec.LookPath("ssh")
	if err != nil || !whoAmI().known {
		return Read(ctx, q)
	}
	if err := checkFiles(q); err != nil {
		return nil, err
	}
	return ask(ctx, ssh, q)
}
