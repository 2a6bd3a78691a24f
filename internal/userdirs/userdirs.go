package userdirs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// errHome is os.UserHomeDir's, in the words of these packages.
var errHome = errors.New("no home directory: HOME is not set")

// Home returns $HOME.
func Home() (string, error) { return here().home() }

func (m machine) home() (string, error) {
	if home := m.getenv("HOME"); home != "" {
		return filepath.Clean(home), nil
	}
	return "", errHome
}

// Mounted is where HPCS's compose file mounts ~/.ssh.
const Mounted = tmp + "/.ssh"

// SSH returns the directory with the person's SSH keys, configuration and known
// hosts: $HOME/.ssh; where that is not there, /tmp/.ssh, if that is one's own and
// nobody else can write it. "" if there is neither a home directory nor that.
func SSH() string { return here().ssh() }

func (m machine) ssh() string {
	usual := ""
	if home, err := m.home(); err == nil {
		usual = filepath.Join(home, ".ssh")
		if _, err := os.Stat(m.at(usual)); err == nil {
			return usual
		}
	}
	fi, err := os.Lstat(m.at(Mounted))
	if err == nil && fi.IsDir() && m.mine(fi) && fi.Mode().Perm()&0o022 == 0 {
		return Mounted
	}
	return usual
}

// SSHPath returns a path of which the beginning $HOME/.ssh is replaced by the SSH
// directory. Others stay as they are.
func SSHPath(path string) string { return here().sshPath(path) }

func (m machine) sshPath(path string) string {
	home, err := m.home()
	if err != nil {
		return path
	}
	if rest, ok := strings.CutPrefix(filepath.Clean(path), filepath.Join(home, ".ssh")); ok && (rest == "" || rest[0] == '/') {
		return m.ssh() + rest
	}
	return path
}

// Key returns the person's usual private key file: id_ed25519 of the SSH directory, or
// id_rsa where only that, or its public half, is there. "" if there is no SSH directory.
func Key() string { return here().key() }

func (m machine) key() string {
	dir := m.ssh()
	if dir == "" {
		return ""
	}
	for _, name := range []string{"id_ed25519", "id_rsa"} {
		for _, half := range []string{"", ".pub"} {
			if _, err := os.Stat(m.at(filepath.Join(dir, name+half))); err == nil {
				return filepath.Join(dir, name)
			}
		}
	}
	return filepath.Join(dir, "id_ed25519")
}

// HPCSConfig is where HPCS's programs have the client's configuration.
const HPCSConfig = tmp + "/hpcs-client.conf"

// ClientConfigs returns where the client's configuration may lie, in the order in
// which they are looked for. Only the first that is there counts, and whose file it is
// says internal/trusted.
func ClientConfigs() []string {
	var all []string
	if dir, err := os.UserConfigDir(); err == nil {
		all = append(all, filepath.Join(dir, "sealbatch", "client.conf"))
	}
	return append(all, "/etc/sealbatch/client.conf", HPCSConfig)
}

// State is where sealbatch remembers things between commands.
type State struct {
	Dir string // sealbatch's own directory there, perhaps not yet made
	// Moved says that it is not the usual place, which ends with the container or cannot be made.
	Moved bool
	// Passing says that this one ends with the container, too.
	Passing bool
}

// StateDir returns where things are remembered: $XDG_STATE_HOME/sealbatch, else
// ~/.local/state/sealbatch; in a container /tmp/.local/state/sealbatch, if the
// usual place is on no mount or cannot be made. Nothing is made.
func StateDir() (State, error) { return here().state() }

func (m machine) state() (State, error) {
	named, home := m.getenv("XDG_STATE_HOME"), ""
	if named == "" {
		var err error
		if home, err = m.home(); err != nil && !m.container() {
			return State{}, fmt.Errorf("where to remember things: %w", err)
		}
		named = filepath.Join("/", home, ".local", "state")
	}
	usual := filepath.Join(named, "sealbatch")
	if !m.container() || m.getenv("XDG_STATE_HOME") != "" {
		return State{Dir: usual, Passing: m.container() && !m.lasts(usual)}, nil
	}
	mounted := filepath.Join(tmp, ".local", "state", "sealbatch")
	for _, s := range []State{{Dir: usual}, {Dir: mounted, Moved: true}} {
		if m.writable(s.Dir) == nil && m.lasts(s.Dir) {
			return s, nil
		}
	}
	for _, s := range []State{{Dir: usual, Passing: true}, {Dir: mounted, Moved: true, Passing: true}} {
		if m.writable(s.Dir) == nil {
			return s, nil
		}
	}
	return State{Dir: usual, Passing: true}, nil
}

// Check returns an error if the directory cannot be written, nor made.
func (s State) Check() error {
	if err := here().writable(s.Dir); err != nil {
		return fmt.Errorf("nowhere to remember what is done: %w", err)
	}
	return nil
}
