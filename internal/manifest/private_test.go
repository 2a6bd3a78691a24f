package manifest

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestPrivate(t *testing.T) {
	t.Parallel()
	p := NewPrivate([]string{"--width=100", "ünicode", "", "two\nlines"}, []string{"--env", "TERM=xterm"})
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParsePrivate(b)
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("got %+v, %v", got, err)
	}
	again, err := NewPrivate(p.Args, p.Flags).Encode()
	if err != nil || DigestOf(again) == DigestOf(b) {
		t.Errorf("two private parts of one command line have one digest (%v): it could be guessed", err)
	}
	for name, spoil := range map[string]func(p *Private){
		"format":               func(p *Private) { p.Format = "x" },
		"no salt":              func(p *Private) { p.Salt = "" },
		"argument of no UTF-8": func(p *Private) { p.Args[0] = "\x80\xff" },
		"argument with U+FFFD": func(p *Private) { p.Args[0] = "a\ufffd" },
		"argument with NUL":    func(p *Private) { p.Args[0] = "a\x00b" },
		"flag of no UTF-8":     func(p *Private) { p.Flags[1] = "\xff" },
		"forbidden flag":       func(p *Private) { p.Flags = []string{"--keep-privs"} },
		"too long":             func(p *Private) { p.Args = []string{strings.Repeat("a", maxDocument)} },
	} {
		p := NewPrivate([]string{"a"}, []string{"--env", "A=b"})
		spoil(&p)
		if _, err := p.Encode(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
	for _, bad := range [][]byte{nil, []byte("{}"), append(b, ' ', '{', '}'), bytes.Replace(b, []byte(`"args"`), []byte(`"argv"`), 1)} {
		if _, err := ParsePrivate(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
}
