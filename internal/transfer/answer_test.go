package transfer

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzAnswer: the answer is found whatever stands before and after it, and however the stream is cut.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("Welcome"), []byte("4711\n"), []byte("bye\n"), 3)
	f.Add([]byte("0123456789abcdef0123456789abcdef"), []byte{0, 255, '>'}, []byte{}, 1)
	f.Add([]byte{}, []byte{}, []byte("0123456789abcdef0123456789abcdef>007\n"), 100)
	f.Fuzz(func(t *testing.T, before, answered, after []byte, step int) {
		const mark = "0123456789abcdef0123456789abcdef"
		if step <= 0 || bytes.Contains(before, []byte(mark)) || bytes.Contains(answered, []byte(mark)) {
			return
		}
		all := append([]byte(nil), before...)
		all = append(append(append(all, mark+"<"...), answered...), mark+">042\n"...)
		all = append(all, after...)
		a := answer{mark: mark}
		for len(all) > 0 {
			n := min(step, len(all))
			_, _ = a.Write(all[:n])
			all = all[n:]
		}
		if !a.begun || !a.ended || a.exit != 42 || !bytes.Equal(a.buf, answered) {
			t.Errorf("%+v", a)
		}
	})
}

// TestAnswerBounded: megabytes of noise are not kept, and an answer that never ends is cut.
func TestAnswerBounded(t *testing.T) {
	t.Parallel()
	a := answer{mark: newMark()}
	noise := bytes.Repeat([]byte("noise\n"), 1<<16)
	for range 100 {
		_, _ = a.Write(noise)
	}
	if cap(a.buf) > 4*len(noise) || len(a.noise) != maxNoise {
		t.Errorf("%d and %d bytes are kept", cap(a.buf), len(a.noise))
	}
	_, _ = a.Write([]byte(a.mark + "<"))
	for range maxOutput/len(noise) + 2 {
		_, _ = a.Write(noise)
	}
	if !a.over {
		t.Error("an answer without end is taken")
	}
}

// TestShellLine: every login shell reads the line alike, whatever its start-up files have set.
func TestShellLine(t *testing.T) {
	t.Parallel()
	words := []string{"printf", "[%s]", "a b", "it's", "$(touch x)", "`y`", "", "*", "-n", `\`, `\0101`, `a\\b`, "a\nb", "!x", "^a^b", "é",
		"~", "{a,b}", "%s", strings.Repeat("long ", 1000)}
	want := "[" + strings.Join(words[2:], "][") + "]"
	bash := filepath.Join(t.TempDir(), "sh")
	if err := os.Symlink("/bin/bash", bash); err != nil {
		t.Fatal(err)
	}
	for _, shell := range []string{"sh -c", "bash -c", "bash -vxeu -c", bash + " -c", "zsh -c", "tcsh -c", "tcsh -vxe -c", "fish -c"} {
		a, errs := answer{mark: newMark()}, answer{}
		errs.mark = a.mark
		login := strings.Fields(shell)
		line := shellLine(words, a.mark)
		if login[0] == bash { // POSIX's shell is bash there
			line = strings.Replace(line, "/bin/sh", bash, 1)
		}
		cmd := exec.Command(login[0], append(login[1:], line)...)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir(), "IFS=t", "BASH_FUNC_exit%%=() { echo mine; }",
			"SHELLOPTS=braceexpand:errexit:nounset:xtrace", "BASH_FUNC_mine%%=() { echo mine; }"}
		cmd.Stdout, cmd.Stderr = &a, &errs
		if err := cmd.Run(); err != nil || !a.ended || !errs.ended || a.exit != 0 {
			t.Errorf("%s: %v, %+v, %q", shell, err, a, errs.noise)
		}
		if string(a.buf) != want || len(errs.buf) != 0 {
			t.Errorf("%s: %q, %q", shell, a.buf, errs.buf)
		}
	}
}
