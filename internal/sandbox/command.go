package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Cmd is a command to run inside a Space. Its standard input is /dev/null.
type Cmd struct {
	Argv []string // Argv[0] without a slash is looked up in the PATH of Env
	Env  []string // KEY=VALUE, nothing else is inherited
	Dir  string   // working directory, "/" if empty
	// Stdout and Stderr are absolute paths as seen inside. They are created
	// with mode 0600, or appended to; empty is /dev/null. They may be the same.
	Stdout, Stderr string
}

// Exit says how a command ended.
type Exit struct {
	Code   int            // its exit code; 128 + Signal if one ended it
	Signal syscall.Signal // 0 if it exited by itself
}

func exitOf(status uint32) Exit {
	ws := unix.WaitStatus(status)
	if ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
	}
	return Exit{Code: ws.ExitStatus()}
}

// prepared is a command whose program is found and whose files are open.
type prepared struct {
	cmd   Cmd
	path  string
	files []*os.File // stdin, stdout, stderr
}

func prepare(c Cmd) (*prepared, error) {
	if len(c.Argv) == 0 {
		return nil, errors.New("an empty command")
	}
	path, err := lookPath(c.Argv[0], c.Env)
	if err != nil {
		return nil, err
	}
	p := &prepared{cmd: c, path: path}
	if err := p.open(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *prepared) open() error {
	in, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	p.files = append(p.files, in)
	for _, name := range []string{p.cmd.Stdout, p.cmd.Stderr} {
		f, err := openOutput(name)
		if err != nil {
			return err
		}
		p.files = append(p.files, f)
	}
	return nil
}

func (p *prepared) close() {
	for _, f := range p.files {
		f.Close()
	}
}

// start runs the command in a session of its own and returns its pid. With
// mortal, it dies with the calling thread (unless it is a set-uid program).
func (p *prepared) start(mortal bool) (int, error) {
	attr := syscall.ProcAttr{Dir: p.cmd.Dir, Env: p.cmd.Env, Sys: &syscall.SysProcAttr{Setsid: true}}
	if mortal {
		attr.Sys.Pdeathsig = unix.SIGKILL
	}
	if attr.Dir == "" {
		attr.Dir = "/"
	}
	for _, f := range p.files {
		attr.Files = append(attr.Files, f.Fd())
	}
	pid, err := syscall.ForkExec(p.path, p.cmd.Argv, &attr)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", p.path, err)
	}
	return pid, nil
}

func openOutput(path string) (*os.File, error) {
	if path == "" {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
}

// lookPath returns the program called name in the PATH of env, as execvp does.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, v := range env {
		list, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			path := filepath.Join(dir, name)
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s: %w in the command's PATH", name, unix.ENOENT)
}
