package keyserver

import "testing"

func TestNeedsHostBinds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		flags []string
		want  bool
	}{
		{nil, false}, {[]string{""}, false},
		{[]string{"--nv"}, false}, {[]string{"--rocm", "--containall", "-C", "-e"}, false},
		{[]string{"--pwd", "/work"}, false}, {[]string{"--pwd=/work"}, false}, {[]string{"--nv --pwd /work"}, false},
		{[]string{"--env", "A=b"}, false}, {[]string{"--env=A=b"}, false}, {[]string{"--no-mount", "tmp"}, false},
		{[]string{"-B", "/x"}, true}, {[]string{"-B/x"}, true}, {[]string{"-B=/x"}, true}, {[]string{"--bind", "/x"}, true},
		{[]string{"--bind=/x"}, true}, {[]string{"--nv --bind /x"}, true}, {[]string{"--mount", "type=bind,src=/x,dst=/y"}, true},
		{[]string{"--volume", "/x"}, true}, {[]string{"-v", "/x:/y"}, true}, {[]string{"--home", "/home/a"}, true}, {[]string{"-H", "/x"}, true},
		{[]string{"--overlay", "/x"}, true}, {[]string{"--scratch", "/x"}, true}, {[]string{"-S", "/x"}, true}, {[]string{"--workdir", "/x"}, true},
		{[]string{"--fusemount", "host:x /y"}, true}, {[]string{"--writable"}, true}, {[]string{"--add-caps", "all"}, true},
		{[]string{"--security", "uid:0"}, true}, {[]string{"--env-file", "/x"}, true}, {[]string{"--fakeroot"}, true},
		{[]string{"--pwd", "--bind", "/x"}, true}, {[]string{"--pwd"}, true}, {[]string{"--env", "-B", "/x"}, true},
		{[]string{"--contain=false"}, true}, {[]string{"--nv=x"}, true}, {[]string{"--pwd="}, true},
		{[]string{"-eB/x"}, true}, {[]string{"--unheard-of"}, true}, {[]string{"--"}, true}, {[]string{"/other.sif"}, true},
		{[]string{"--bin", "/x"}, true}, {[]string{"--pwd /a\t-B\n/x"}, true},
	} {
		if got := NeedsHostBinds(tc.flags); got != tc.want {
			t.Errorf("%q: %v, want %v", tc.flags, got, tc.want)
		}
	}
}
