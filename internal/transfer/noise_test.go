package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// loginShell is a server on which commands, and the SFTP server, are started by a login shell with start-up files.
// shell runs $1 as that login shell does, with start-up files in the directory $HOME; files are those.
func loginShell(t *testing.T, shell string, files map[string]string) *server {
	t.Helper()
	home := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(home, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(home, name), text)
	}
	login := filepath.Join(home, "login")
	text := fmt.Sprintf("#!/bin/sh\nexport HOME=%s\nset -- \"$SSH_ORIGINAL_COMMAND\"\n"+
		"[ \"$1\" != internal-sftp ] || set -- /usr/lib/openssh/sftp-server\n%s\n", home, shell)
	if err := os.WriteFile(login, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return newServer(t, []string{"ed25519"}, "ForceCommand "+login)
}

const (
	asBash = `export BASH_ENV=$HOME/.bashrc; exec bash -c "$1"`
	asTcsh = `exec tcsh -c "$1"`
	asFish = `exec env XDG_CONFIG_HOME=$HOME fish -c "$1"`
	asZsh  = `exec env ZDOTDIR=$HOME zsh -c "$1"`
)

// noises are start-up files, by what they do, in the language of the login shell.
var noises = map[string]struct {
	shell string
	files map[string]string
}{
	"silence":   {asBash, nil},
	"greetings": {asBash, map[string]string{".bashrc": "echo Welcome; echo 'Quota: 5' >&2; printf 'no end of line'\n"}},
	"colours": {asBash, map[string]string{".bashrc": "" +
		"printf '\\033[2J\\033]0;title\\007\\033[31mhi\\000\\377'; printf '\\033[0m' >&2\n"}},
	"number at last": {asBash, map[string]string{".bashrc": "trap 'echo 666; echo oops >&2; exit 1' EXIT; echo 4712\n"}},
	"megabytes":      {asBash, map[string]string{".bashrc": "yes noise | head -c 3000000; yes noise | head -c 3000000 >&2\n"}},
	"options": {asBash, map[string]string{".bashrc": "set -eux; set -o noglob; export SHELLOPTS; IFS=abc/; export IFS\n" +
		"shopt -s expand_aliases; alias env='echo env' sh='echo sh' exit='echo exit'\n"}},
	"functions":  {asBash, map[string]string{".bashrc": "cat() { echo mine; }; printf() { echo mine; }; export -f cat; umask 0; cd /tmp\n"}},
	"background": {asBash, map[string]string{".bashrc": "[ -n \"$AGENT\" ] || { export AGENT=1; sleep 600 & }\n"}},
	"reader":     {asBash, map[string]string{".bashrc": "read -t 0.2 x; echo \"read $x\"\n"}},
	"tcsh": {asTcsh, map[string]string{".cshrc": "echo Welcome\nalias sh echo\nalias printf echo\nset noglob\nset verbose\n",
		".logout": "echo bye\n"}},
	"zsh": {asZsh, map[string]string{".zshenv": "echo Welcome; setopt xtrace nomatch; alias env=echo sh=echo\n" +
		"zshexit() { echo bye; exit 1 }\n"}},
	"fish": {asFish, map[string]string{"fish/config.fish": "echo Welcome\nfunction sh; echo mine; end\n" +
		"function bye --on-event fish_exit; echo bye; end\n"}},
}

// TestNoise: whatever login shells print, a command's answer is what the command wrote, and SFTP works.
func TestNoise(t *testing.T) {
	t.Parallel()
	for name, n := range noises {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := mustDial(t, reach(t, loginShell(t, n.shell, n.files)))
			times := 2
			if name == "megabytes" { // which take a while
				times = 1
			}
			for range times {
				out, errs, exit, err := c.Run(t.Context(), []string{"sh", "-c", "cat; printf '\\033[1m!' ; echo no >&2; exit 3"},
					strings.NewReader("it's\nin"))
				if string(out) != "it's\nin\x1b[1m!" || string(errs) != "no\n" || exit != 3 || err != nil {
					t.Errorf("got %q, %q, %d, %v", out, errs, exit, err)
				}
			}
			if name == "reader" { // it reads what SFTP begins with
				return
			}
			fsys, err := c.FS()
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := StageFile(t.Context(), fsys, dir+"/x", []byte("hello"), 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := ReadFile(fsys, dir+"/x"+PartialSuffix, 10); err != nil || string(got) != "hello" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// checkSaid looks for an error of a kind that says something in one sentence, with what to do.
func checkSaid(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) || fault.Hint(err) == "" || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("%v (hint: %s)", err, fault.Hint(err))
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is missing in: %v", w, err)
		}
	}
}

// TestShellsThatEnd: a start-up file that ends the shell, and one that waits for ever, are said to.
func TestShellsThatEnd(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]struct{ shell, file, text string }{
		"exit":    {asBash, ".bashrc", "printf '\\033[1mno terminal'; exit 1\n"},
		"nologin": {"echo 'no terminal'; exit 1", ".profile", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := mustDial(t, reach(t, loginShell(t, n.shell, map[string]string{n.file: n.text})))
			_, _, _, err := c.Run(t.Context(), []string{"true"}, strings.NewReader("in"))
			checkSaid(t, err, ErrNoCommands, "status 1", "no terminal")
			_, err = c.FS()
			checkSaid(t, err, ErrNoSFTP, "no terminal")
		})
	}
	t.Run("waits", func(t *testing.T) {
		t.Parallel()
		o := reach(t, loginShell(t, "echo press a key; exec sleep 1000", nil))
		o.Stall = time.Second
		_, _, _, err := mustDial(t, o).Run(t.Context(), []string{"true"}, nil)
		checkSaid(t, err, ErrConnect, "no command for 1s")
		_, err = mustDial(t, o).FS()
		checkSaid(t, err, ErrConnect, "has not answered")
	})
}

// TestFilesOnly: sites that serve files and run no commands.
func TestFilesOnly(t *testing.T) {
	t.Parallel()
	for line, words := range map[string][]string{
		"ForceCommand internal-sftp":                 {"runs no commands", "allows sftp connections only"},
		"ForceCommand /usr/lib/openssh/sftp-server":  {"status 0 before it ran a command"},
		"ForceCommand internal-sftp -d /tmp -l INFO": {"runs no commands"},
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			c := mustDial(t, reach(t, newServer(t, []string{"ed25519"}, line)))
			fsys, err := c.FS()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fsys.Stat("/"); err != nil {
				t.Error(err)
			}
			_, _, _, err = c.Run(t.Context(), []string{"echo", "4711"}, nil)
			checkSaid(t, err, ErrNoCommands, words...)
		})
	}
}

// TestOneSession: where sshd allows one session on a connection, which SFTP has, commands get a second connection.
func TestOneSession(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"}, "MaxSessions 1")
	c := mustDial(t, reach(t, s))
	fsys, err := c.FS()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if out, _, _, err := c.Run(t.Context(), []string{"cat"}, strings.NewReader("in")); err != nil || string(out) != "in" {
			t.Errorf("%q, %v", out, err)
		}
	}
	if n := s.conns.Load(); n > 3 {
		t.Errorf("%d connections for five commands", n)
	}
	done := make(chan error)
	for range 3 {
		go func() {
			_, _, _, err := c.Run(t.Context(), []string{"true"}, nil)
			done <- err
		}()
	}
	if err := errors.Join(<-done, <-done, <-done); err != nil {
		t.Errorf("at once: %v", err)
	}
	w, data := whole(t, 3*testSegment)
	p := t.TempDir() + "/d.partial"
	if err := w.Send(t.Context(), fsys, p, 0o640); err != nil {
		t.Fatal(err)
	}
	checkFile(t, p, data, 0o640)
	_ = c.Close()
	if _, _, _, err := c.Run(t.Context(), []string{"true"}, nil); !errors.Is(err, ErrConnect) {
		t.Errorf("closed: %v", err)
	}
}

// TestNoSession: where sshd allows none at all, it is said.
func TestNoSession(t *testing.T) {
	t.Parallel()
	c := mustDial(t, reach(t, newServer(t, []string{"ed25519"}, "MaxSessions 0")))
	_, err := c.FS()
	checkSaid(t, err, ErrNoSFTP, "opens no session")
	_, _, _, err = c.Run(t.Context(), []string{"true"}, nil)
	checkSaid(t, err, ErrNoCommands, "opens no session")
}

// TestPlainSFTP: a server with none of OpenSSH's extensions serves everything, and renaming replaces nothing.
func TestPlainSFTP(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"}, "ForceCommand /usr/lib/openssh/sftp-server -P "+
		"posix-rename,fsync,statvfs,fstatvfs,hardlink,lsetstat,limits,expand-path,copy-data,home-directory,users-groups-by-id")
	fsys, err := mustDial(t, reach(t, s)).FS()
	if err != nil {
		t.Fatal(err)
	}
	if free, err := fsys.Free("/"); free != -1 || err != nil {
		t.Errorf("Free: %d, %v", free, err)
	}
	dir := t.TempDir()
	w, data := whole(t, 2*testSegment)
	if err := w.Send(t.Context(), fsys, dir+"/d.partial", 0o640); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/d", "old")
	if err := fsys.Rename(dir+"/d.partial", dir+"/d"); !errors.Is(err, fs.ErrExist) || readString(t, dir+"/d") != "old" {
		t.Errorf("Rename over what is there: %v", err)
	}
	if err := fsys.Rename(dir+"/d.partial", dir+"/e"); err != nil {
		t.Error(err)
	}
	checkFile(t, dir+"/e", data, 0o640)
	// Another server has small packets, and its SSH_FXP_RENAME replaces.
	if fsys, err = mustDial(t, newFreezing(t, "never").reach(t)).FS(); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Rename(dir+"/e", dir+"/d"); !errors.Is(err, fs.ErrExist) || readString(t, dir+"/d") != "old" {
		t.Errorf("Rename by a server that replaces: %v", err)
	}
	w, data = whole(t, testSegment)
	if err := w.Send(t.Context(), fsys, dir+"/f", 0o640); err != nil {
		t.Fatal(err)
	}
	checkFile(t, dir+"/f", data, 0o640)
}
