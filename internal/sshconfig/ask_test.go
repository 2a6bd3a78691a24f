package sshconfig

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// script makes a program that plays ssh.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ssh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// What ssh is asked cannot be taken for an option or by a shell, and what it says is bounded.
func TestAsk(t *testing.T) {
	t.Parallel()
	q := Query{Host: "-oProxyCommand=x; $(id)", User: "DOM\\alice", Port: 2222, File: "none"}
	v, err := ask(t.Context(), script(t, `printf 'hostname %s\n' "$*"; printf 'user %s\nconnecttimeout none\nproxycommand a  b\n' "$5"`), q)
	if err != nil || v.Get("hostname") != "-G -F none -l DOM\\alice -p 2222 -- -oProxyCommand=x; $(id)" ||
		v.Get("user") != "DOM\\alice" || v.Get("connecttimeout") != "" || v.Get("proxycommand") != "a  b" {
		t.Errorf("%q, %v", v, err)
	}
	if _, err := Look(t.Context(), q); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "is not a host") {
		t.Errorf("a host like an option: %v", err)
	}
	for text, want := range map[string]string{
		"yes hostname hhhhhhhhhhhhhhhhhhhhhhhh | head -c 2000000":                   "wrote more than",
		`printf 'Pseudo-terminal will\nconfig line 3: bad \033[2J\n' >&2; exit 255`: `says: config line 3: bad \u001b[2J`,
		"exit 3":        "exit status 3",
		"echo user bob": "named no host",
	} {
		if _, err := ask(t.Context(), script(t, text), Query{Host: "h"}); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ask(ctx, script(t, "sleep 100"), q); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// ssh -G does not quote: names of files with blanks are found by what is there.
func TestSplitFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	blank := dir + "/known hosts of mine"
	if err := os.WriteFile(blank, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := splitFiles("/nowhere/a " + blank + " /nowhere/b")
	if want := "/nowhere/a|" + blank + "|/nowhere/b"; strings.Join(got, "|") != want {
		t.Errorf("%q", got)
	}
}

// Files that others can write are refused, whoever reads them, and so is what they include.
func TestFilesOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "config")
	for name, text := range map[string]string{"config": "Host other\n  Include " + dir + "/inner\n", "inner": "User alice\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Look(t.Context(), Query{Host: "h", File: file}); err != nil {
		t.Errorf("control: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "inner"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Look(t.Context(), Query{Host: "h", File: file}); err == nil {
		t.Error("a file that everybody can write is used")
	}
}

// Words that splitWords returns, quoted, are the same words again; and nothing panics.
func FuzzLine(f *testing.F) {
	for _, s := range []string{`Host "a b" 'c' d\ e # f`, `User=x`, "\tPort  =  22 \r", `A "b\"c" d"e f"g`, `Match host "x`, "\ufeffUser x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		keyword, rest, err := splitLine(line)
		if err != nil || keyword == "" {
			return
		}
		words, err := splitWords(rest)
		if err != nil || strings.ContainsAny(rest, "\"\\") {
			return
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, `"`+w+`"`)
		}
		again, err := splitWords(strings.Join(quoted, " "))
		if err != nil || strings.Join(again, "\x00") != strings.Join(words, "\x00") {
			t.Errorf("%q: %q, then %q, %v", rest, words, again, err)
		}
	})
}
