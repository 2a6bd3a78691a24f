package shellwords

import (
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

// readmeArgs is the -args value of HPCS's README once YAML's own quoting is off.
const readmeArgs = `"\" /sd-container/encrypted/jp2a_input/image.png --width=100 --output=/sd-container/output/result \""`

func TestSplitArgs(t *testing.T) {
	t.Parallel()
	jp2a := []string{"/sd-container/encrypted/jp2a_input/image.png", "--width=100", "--output=/sd-container/output/result"}
	for _, c := range []struct {
		in   string
		want []string
	}{
		{readmeArgs, jp2a},
		// the same with one layer of quotes fewer, one more, and with the YAML escapes still in place
		{`" ` + strings.Join(jp2a, " ") + ` "`, jp2a},
		{`"\"\\\" ` + strings.Join(jp2a, " ") + ` \\\"\""`, jp2a},
		{`\" ` + strings.Join(jp2a, " ") + ` \"`, jp2a},
		{strings.Join(jp2a, " "), jp2a},
		{"--env TERM=xterm-256color", []string{"--env", "TERM=xterm-256color"}},
		{"", nil},
		{"  \t ", nil},
		{`""`, nil},
		{`''`, []string{""}},
		{`a "" b`, []string{"a", "", "b"}},
		{`'a b'`, []string{"a b"}},
		{`"a b" c`, []string{"a b", "c"}},
		{`"a" "b"`, []string{"a", "b"}},
		{`"a b"`, []string{"a", "b"}},
		{`"it's"`, []string{"it's"}},
		{`a\ b 'it'\''s' "x\"y\\z\n"`, []string{"a b", "it's", `x"y\z\n`}},
		{"$(touch x) `y` $HOME * ~ #z", []string{"$(touch", "x)", "`y`", "$HOME", "*", "~", "#z"}},
		{"a\nb", []string{"a", "b"}},
	} {
		if got, err := SplitArgs(c.in); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("SplitArgs(%s) = %q, %v, want %q", c.in, got, err, c.want)
		}
	}
	for _, bad := range []string{`'a`, `"a`, `a\`, "a\x00b", `x "it's`} {
		if got, err := SplitArgs(bad); err == nil {
			t.Errorf("SplitArgs(%q) = %q, want an error", bad, got)
		}
	}
}

func TestUnquote(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`"00:60:00"`: "00:60:00", `00:60:00`: "00:60:00", `'x'`: "x", `"\"x\""`: "x", `\"x\"`: "x",
		`"`: `"`, `a"b`: `a"b`, `"a" "b"`: `"a" "b"`, ` x y `: "x y", `""`: "",
	} {
		if got := Unquote(in); got != want {
			t.Errorf("Unquote(%s) = %q, want %q", in, got, want)
		}
	}
}

// A shell, and SplitArgs itself, read back what QuoteArgs wrote.
func TestQuoteArgs(t *testing.T) {
	t.Parallel()
	words := []string{"", "a", "a b", "it's", `\`, `"`, "$(touch x)", "`x`", "-f", "*", "~", "!x", "=ls", "a\nb", "é", "x;y", "\x01"}
	line := QuoteArgs(words...)
	out, err := exec.Command("sh", "-c", `printf '%s\0' `+line).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !reflect.DeepEqual(got, words) {
		t.Errorf("sh read %q from %s", got, line)
	}
	if QuoteArgs("scancel", "12_3", "--name=a") != "scancel 12_3 --name=a" {
		t.Errorf("plain words are quoted: %s", QuoteArgs("scancel", "12_3", "--name=a"))
	}
}

func FuzzQuoteSplit(f *testing.F) {
	f.Add("a", "b c")
	f.Add("it's", `\"`)
	f.Fuzz(func(t *testing.T, a, b string) {
		got, _, err := split(QuoteArgs(a, b))
		if err != nil || !reflect.DeepEqual(got, []string{a, b}) {
			t.Errorf("%q %q came back as %q, %v", a, b, got, err)
		}
	})
}

func FuzzSplitArgs(f *testing.F) {
	f.Add(readmeArgs)
	f.Add(`\"\"\"`)
	f.Fuzz(func(t *testing.T, s string) {
		words, err := SplitArgs(s)
		if err == nil && len(strings.Join(words, "")) > len(s) {
			t.Errorf("%q grew into %q", s, words)
		}
	})
}
