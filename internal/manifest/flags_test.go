package manifest

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParseFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		words []string
		want  Flags
	}{
		{"none", nil, Flags{}},
		{"devices", []string{"--nv", "--rocm"}, Flags{Words: []string{"--nv", "--rocm"}}},
		{"environment", []string{"--env", "A=1", "--env=B=x=y, z", "--env", "C="},
			Flags{Env: []string{"A=1", "B=x=y, z", "C="}}},
		{"working directory", []string{"--pwd", "/opt", "--cwd=/srv"}, Flags{Pwd: "/srv"}},
		{"already set", []string{"-e", "-C", "--cleanenv", "--quiet"}, Flags{}},
		{"value is not a flag", []string{"--hostname", "--nv"}, Flags{Words: []string{"--hostname", "--nv"}}},
		{"bind", []string{"-B", "/appl:/appl:ro"}, Flags{Words: []string{"-B", "/appl:/appl:ro"}, HostBinds: true}},
		{"mount", []string{"--mount=type=bind,src=/a,dst=/a"},
			Flags{Words: []string{"--mount", "type=bind,src=/a,dst=/a"}, HostBinds: true}},
		{"overlay", []string{"--overlay", "/a.img"}, Flags{Words: []string{"--overlay", "/a.img"}, HostBinds: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseFlags(c.words)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("ParseFlags(%q) = %+v, %v; want %+v", c.words, got, err, c.want)
			}
		})
	}
}

func TestParseFlagsRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words []string
		say   string
	}{
		{[]string{"--fakeroot"}, "--fakeroot"},
		{[]string{"--home", "/home/x"}, "/sd-container/home"},
		{[]string{"--env-file", "/etc/x"}, "--env"},
		{[]string{"--fusemount", "x"}, "--fusemount"},
		{[]string{"--unsquash"}, "--unsquash"},
		{[]string{"--nv=true"}, "takes no value"},
		{[]string{"--bind"}, "needs a value"},
		{[]string{"--env", "A"}, "NAME=VALUE"},
		{[]string{"--env", "1A=x"}, "NAME=VALUE"},
		{[]string{"--env", "A=1,B=2"}, "several variables"},
		{[]string{"--env", "HOME=/x"}, "HOME"},
		{[]string{"--pwd", "../x"}, "absolute path"},
		{[]string{"-eC"}, "-eC"},
		{[]string{"--"}, "--"},
		{[]string{"image.png"}, "not a runtime flag"},
	} {
		got, err := ParseFlags(c.words)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("ParseFlags(%q) = %+v, %v; want ErrInvalid that says %q", c.words, got, err, c.say)
		}
	}
}

func FuzzParseFlags(f *testing.F) {
	f.Add("--env\x00A=1\x00--nv")
	f.Add("--bind=/a\x00-B")
	f.Fuzz(func(t *testing.T, s string) {
		words := strings.Split(s, "\x00")
		got, err := ParseFlags(words)
		if err != nil {
			return
		}
		for _, w := range got.Env {
			if name, _, ok := strings.Cut(w, "="); !ok || !envNameRE.MatchString(name) {
				t.Errorf("ParseFlags(%q) lets %q through as a variable", words, w)
			}
		}
		// What is passed on parses to the same again: nothing hides in it.
		again, err := ParseFlags(got.Words)
		if err != nil || !reflect.DeepEqual(again.Words, got.Words) || again.HostBinds != got.HostBinds {
			t.Errorf("ParseFlags(%q) = %+v, whose words parse to %+v, %v", words, got, again, err)
		}
	})
}
