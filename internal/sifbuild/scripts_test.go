package sifbuild

import (
	"errors"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// nasty are values that shells have trouble with, each by itself or together.
var nasty = []string{"", " ", "two words", "it's", `"`, "'", "`id`", "$(id)", "$HOME", "${HOME}", "a\nb", "\n", "x\n\n", "a\r\nb", "\r", `\`, "\\\n",
	`a\'b`, "\t", "#x", "!x", "*", "~", "{a,b}", `$'x'`, `\u000A`, "a;b", "&", "|", ">f", "\x01\x7f", "ü\u2028\U0001F600", "a=b", "-n", "-- ", "\x1b[0m", "'\\''"}

// values returns the nasty values, and n made of them at random, from a fixed seed.
func values(n int) []string {
	out := slices.Clone(nasty)
	r := rand.New(rand.NewPCG(1, 2))
	for range n {
		var b strings.Builder
		for range 1 + r.IntN(6) {
			b.WriteString(nasty[r.IntN(len(nasty))])
		}
		out = append(out, b.String())
	}
	return out
}

// shell runs a script by bash and returns what it wrote.
func shell(t *testing.T, script string, args ...string) string {
	t.Helper()
	c := exec.Command("bash", append([]string{"--norc", "-c", script, "sh"}, args...)...)
	c.Env = []string{"PATH=/usr/bin:/bin", "HOME=/home/caller"}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestEnvironment: every value comes out as it went in; what is set already stays. The e2e tests
// do the same with the runtime's own shell.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	env := []string{"A=0", "HOME=/root", "A=last", "no name=x", "1X=y", "NUL=a\x00b", "NOVALUE", "PATH=/image/bin:/usr/bin:/bin"}
	want := map[string]string{"A": "last", "HOME": "/home/caller", "NOVALUE": "", "PATH": "/image/bin:/usr/bin:/bin"}
	for i, v := range values(200) {
		name := "V" + strconv.Itoa(i)
		env = append(env, name+"="+v)
		want[name] = v
	}
	script, dropped := envScript(env)
	if want := []string{"no name", "1X", "NUL"}; !slices.Equal(dropped, want) {
		t.Errorf("dropped %q, want %q", dropped, want)
	}
	got := map[string]string{}
	for _, v := range strings.Split(shell(t, script+"exec env -0"), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		got[name] = value
	}
	for name, v := range want {
		if value, ok := got[name]; !ok || value != v {
			t.Errorf("%s is %q, want %q", name, value, v)
		}
	}
	if out := shell(t, "export V2=caller; "+script+"echo $V2; echo $PATH"); out != "caller\n/image/bin:/usr/bin:/bin\n" {
		t.Errorf("with V2 set before: %q", out)
	}
}

// TestRunScript: the words are the image's and the caller's, unchanged.
func TestRunScript(t *testing.T) {
	t.Parallel()
	print := []string{"/usr/bin/printf", `%s\0`}
	all := values(50)
	for name, c := range map[string]struct {
		entrypoint, command, args, want []string
	}{
		"entrypoint":                         {append(print, all...), nil, nil, all},
		"entrypoint and arguments":           {print, nil, all, all},
		"entrypoint and command":             {print, all, nil, all},
		"arguments in the command's place":   {append(print, "e"), []string{"c"}, []string{"$HOME", "`id`", "a  b"}, []string{"e", "$HOME", "`id`", "a  b"}},
		"command":                            {nil, append(print, "c"), nil, []string{"c"}},
		"another program than the command":   {nil, []string{"false"}, append(print, "a"), []string{"a"}},
		"neither, and a program":             {nil, nil, append(print, "a"), []string{"a"}},
		"a shell's line, and no use of more": {[]string{"/bin/sh", "-c", `printf '%s\0' "$# it's"`}, nil, nil, []string{"0 it's"}},
	} {
		got := strings.Split(shell(t, runScript(c.entrypoint, c.command), c.args...), "\x00")
		if got = got[:len(got)-1]; !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	out, err := exec.Command("sh", "-c", runScript(nil, nil)).CombinedOutput()
	var e *exec.ExitError
	if !errors.As(err, &e) || e.ExitCode() != 127 || !strings.Contains(string(out), "name a program") {
		t.Errorf("nothing to run: %v, %s", err, out)
	}
}
