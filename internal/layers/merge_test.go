package layers

import (
	"testing"
)

// TestMerge has what layers mean, a case a rule. A layer is a list of members.
func TestMerge(t *testing.T) {
	t.Parallel()
	type stack [][]member
	for name, c := range map[string]struct {
		layers stack
		want   string
	}{
		"nothing":      {stack{}, ""},
		"empty layers": {stack{{}, {}}, ""},
		"one layer": {
			stack{{dir("a"), file("a/f", "x"), link("l", "a/f"), hard("a/h", "a/f")}},
			"a/ 755\na/f 644 \"x\"\na/h = a/f\nl -> a/f\n",
		},
		"implied":      {stack{{file("a/b/f", "x")}}, "a/ 755\na/b/ 755\na/b/f 644 \"x\"\n"},
		"described":    {stack{{file("a/f", "x"), dir("a").mode(0o700)}}, "a/ 700\na/f 644 \"x\"\n"},
		"a name twice": {stack{{file("f", "old"), file("f", "new")}}, "f 644 \"new\"\n"},
		"absolute name": {
			stack{{file("/etc/f", "x"), file("./etc//./g", "y"), file("etc/../h", "z")}},
			"etc/ 755\netc/f 644 \"x\"\netc/g 644 \"y\"\nh 644 \"z\"\n",
		},
		"no UTF-8": {
			stack{{file("f\xff\xfe", "x"), link("l", "f\xff\xfe")}, {hard("\x80", "f\xff\xfe")}},
			"f\xff\xfe 644 \"x\"\nl -> f\xff\xfe\n\x80 = f\xff\xfe\n",
		},

		"file over file": {stack{{file("f", "old")}, {file("f", "new").mode(0o600)}}, "f 600 \"new\"\n"},
		"dir over dir": {
			stack{{dir("d"), file("d/f", "x")}, {dir("d").mode(0o700)}},
			"d/ 700\nd/f 644 \"x\"\n",
		},
		"dir over file":  {stack{{file("x", "f")}, {dir("x"), file("x/f", "x")}}, "x/ 755\nx/f 644 \"x\"\n"},
		"file over dir":  {stack{{dir("x"), file("x/f", "x")}, {file("x", "f")}}, "x 644 \"f\"\n"},
		"link over dir":  {stack{{dir("x"), file("x/f", "x")}, {link("x", "y")}}, "x -> y\n"},
		"link over file": {stack{{file("x", "f")}, {link("x", "y")}}, "x -> y\n"},
		"dir over link to dir": {
			stack{{dir("usr"), file("usr/f", "f"), link("l", "usr")}, {dir("l"), file("l/g", "g")}},
			"l/ 755\nl/g 644 \"g\"\nusr/ 755\nusr/f 644 \"f\"\n",
		},
		"file over link": {
			stack{{file("f", "f"), link("l", "f")}, {file("l", "l")}},
			"f 644 \"f\"\nl 644 \"l\"\n",
		},
		"below a file":             {stack{{file("x", "f")}, {file("x/y", "y")}}, "x/ 755\nx/y 644 \"y\"\n"},
		"file over dir, one layer": {stack{{dir("x"), file("x/f", "x"), file("x", "f")}}, "x 644 \"f\"\n"},

		"whiteout": {
			stack{{file("a", "a"), file("b", "b")}, {gone(".wh.a")}},
			"b 644 \"b\"\n",
		},
		"whiteout of a directory": {
			stack{{dir("d"), file("d/a", "a"), file("b", "b")}, {gone(".wh.d")}},
			"b 644 \"b\"\n",
		},
		"whiteout of nothing there": {
			stack{{file("a", "a")}, {gone(".wh.b"), gone("no/.wh.b"), gone("no/.wh..wh..opq")}},
			"a 644 \"a\"\n",
		},
		"whiteout in the lowest layer": {
			stack{{file("a", "a"), gone(".wh.a"), gone(".wh..wh..opq")}},
			"a 644 \"a\"\n",
		},
		"whiteout, then the same name": {
			stack{{file("a", "old")}, {gone(".wh.a"), file("a", "new")}},
			"a 644 \"new\"\n",
		},
		"a name, then its whiteout": {
			stack{{file("a", "old")}, {file("a", "new"), gone(".wh.a")}},
			"a 644 \"new\"\n",
		},
		"whiteout, then a directory": {
			stack{{dir("d").mode(0o700), file("d/a", "a")}, {gone(".wh.d"), file("d/b", "b")}},
			"d/ 755\nd/b 644 \"b\"\n",
		},
		"a directory, then its whiteout": {
			stack{{dir("d").mode(0o700), file("d/a", "a")}, {file("d/b", "b"), gone(".wh.d")}},
			"d/ 755\nd/b 644 \"b\"\n",
		},
		"described, then its whiteout": {
			stack{{dir("d"), file("d/a", "a"), dir("d/e"), file("d/e/a", "a")},
				{dir("d").mode(0o711), file("d/e/b", "b"), gone(".wh.d")}},
			"d/ 711\nd/e/ 755\nd/e/b 644 \"b\"\n",
		},
		"whiteout of a hard link's name": {
			stack{{file("a", "a"), hard("b", "a")}, {gone(".wh.a")}},
			"b 644 \"a\"\n",
		},
		"whiteout and a name two layers on": {
			stack{{file("a", "1")}, {gone(".wh.a")}, {file("a", "3")}},
			"a 644 \"3\"\n",
		},
		"whiteout of a link": {
			stack{{dir("d"), file("d/f", "f"), link("l", "d")}, {gone(".wh.l")}},
			"d/ 755\nd/f 644 \"f\"\n",
		},
		"whiteout behind a link": {
			stack{{dir("usr/bin"), file("usr/bin/x", "x"), file("usr/bin/y", "y"), link("bin", "usr/bin")},
				{gone("bin/.wh.x")}},
			"bin -> usr/bin\nusr/ 755\nusr/bin/ 755\nusr/bin/y 644 \"y\"\n",
		},
		"whiteout keeps a hard link": {
			stack{{file("a", "a"), file("b", "old")}, {hard("b", "a"), gone(".wh.b")}},
			"a 644 \"a\"\nb = a\n",
		},

		"opaque": {
			stack{{dir("d"), file("d/a", "a"), file("b", "b")}, {dir("d"), gone("d/.wh..wh..opq"), file("d/c", "c")}},
			"b 644 \"b\"\nd/ 755\nd/c 644 \"c\"\n",
		},
		"opaque last": {
			stack{{dir("d"), file("d/a", "a"), file("b", "b")}, {dir("d"), file("d/c", "c"), gone("d/.wh..wh..opq")}},
			"b 644 \"b\"\nd/ 755\nd/c 644 \"c\"\n",
		},
		"opaque, deep": {
			stack{{dir("d"), dir("d/e"), file("d/e/a", "a"), file("d/e/f", "f")},
				{file("d/e/b", "b"), gone("d/.wh..wh..opq")}},
			"d/ 755\nd/e/ 755\nd/e/b 644 \"b\"\n",
		},
		"opaque root": {
			stack{{file("a", "a"), dir("d"), file("d/b", "b")}, {file("d/c", "c"), gone(".wh..wh..opq")}},
			"d/ 755\nd/c 644 \"c\"\n",
		},
		"opaque root, first": {
			stack{{file("a", "a")}, {gone("./.wh..wh..opq"), file("c", "c")}},
			"c 644 \"c\"\n",
		},
		"opaque, then next layer": {
			stack{{dir("d"), file("d/a", "a")}, {gone("d/.wh..wh..opq"), file("d/b", "b")}, {file("d/c", "c")}},
			"d/ 755\nd/b 644 \"b\"\nd/c 644 \"c\"\n",
		},
		"opaque behind a link": {
			stack{{dir("d"), file("d/a", "a"), link("l", "d")}, {gone("l/.wh..wh..opq"), file("l/b", "b")}},
			"d/ 755\nd/b 644 \"b\"\nl -> d\n",
		},
		"opaque twice": {
			stack{{dir("d"), file("d/a", "a")}, {gone("d/.wh..wh..opq"), file("d/b", "b"), gone("d/.wh..wh..opq")}},
			"d/ 755\nd/b 644 \"b\"\n",
		},
		"opaque hides a directory": {
			stack{{dir("d/e"), file("d/e/a", "a")}, {gone("d/.wh..wh..opq"), dir("d/e")}},
			"d/ 755\nd/e/ 755\n",
		},
		"aufs's own": {
			stack{{dir(".wh..wh.plnk"), file(".wh..wh.plnk/7.1", "x"), hard("f", ".wh..wh.plnk/7.1"),
				file(".wh..wh.aufs", "")}, {hard(".wh.g", ".wh..wh.aufs")}},
			"f 644 \"x\"\n",
		},

		"hard link across layers": {stack{{file("a", "a")}, {hard("b", "a")}}, "a 644 \"a\"\nb = a\n"},
		"hard link to what goes": {
			stack{{file("a", "a")}, {hard("b", "a")}, {gone(".wh.a")}, {hard("c", "b")}},
			"b 644 \"a\"\nc = b\n",
		},
		"hard link to what changes": {
			stack{{file("a", "old")}, {hard("b", "a")}, {file("a", "new")}},
			"a 644 \"new\"\nb 644 \"old\"\n",
		},
		"hard link, one layer, twice": {
			stack{{file("a", "old"), hard("b", "a"), file("a", "new")}},
			"a 644 \"new\"\nb 644 \"old\"\n",
		},
		"hard link to a link": {stack{{link("l", "f")}, {hard("m", "l")}}, "l -> f\nm = l\n"},
		"hard link behind a link": {
			stack{{file("usr/bin/a", "a"), link("bin", "usr/bin")}, {hard("bin/b", "/bin/a")}},
			"bin -> usr/bin\nusr/ 755\nusr/bin/ 755\nusr/bin/a 644 \"a\"\nusr/bin/b = usr/bin/a\n",
		},
		"hard link to itself": {stack{{file("a", "a"), hard("a", "a")}}, "a 644 \"a\"\n"},

		"behind a link": {
			stack{{dir("usr/bin"), link("bin", "usr/bin")}, {file("bin/x", "x")}},
			"bin -> usr/bin\nusr/ 755\nusr/bin/ 755\nusr/bin/x 644 \"x\"\n",
		},
		"behind an absolute link": {
			stack{{dir("usr/bin"), link("bin", "/usr/bin")}, {file("bin/x", "x")}},
			"bin -> /usr/bin\nusr/ 755\nusr/bin/ 755\nusr/bin/x 644 \"x\"\n",
		},
		"behind a link that leads up": {
			stack{{dir("a/b"), link("a/b/l", "../../../../../c"), dir("c")}, {file("a/b/l/x", "x")}},
			"a/ 755\na/b/ 755\na/b/l -> ../../../../../c\nc/ 755\nc/x 644 \"x\"\n",
		},
		"behind links in a row": {
			stack{{dir("c"), link("a", "b/."), link("b", "./c")}, {file("a/x", "x")}},
			"a -> b/.\nb -> ./c\nc/ 755\nc/x 644 \"x\"\n",
		},
		"behind a dangling link": {
			stack{{link("run", "var/run")}, {file("run/x", "x")}},
			"run -> var/run\nvar/ 755\nvar/run/ 755\nvar/run/x 644 \"x\"\n",
		},
		"behind a link of that layer": {
			stack{{link("l", "d"), file("l/x", "x"), dir("d").mode(0o700)}},
			"d/ 700\nd/x 644 \"x\"\nl -> d\n",
		},
		"link replaced, then behind": {
			stack{{dir("d"), link("l", "d")}, {gone(".wh.l"), file("l/x", "x")}},
			"d/ 755\nl/ 755\nl/x 644 \"x\"\n",
		},

		"device over a file":  {stack{{file("a", "a")}, {device("a"), hard("b", "a")}}, ""},
		"device, then a file": {stack{{device("a")}, {file("a", "a")}}, "a 644 \"a\"\n"},
		"set-uid": {
			stack{{file("su", "su").mode(0o4755), dir("mail").mode(0o2775), dir("tmp").mode(0o1777)}},
			"mail/ 775\nsu 755 \"su\"\ntmp/ 1777\n",
		},
		"kinds that are files":  {stack{{made('7', "c", "", "x")}}, "c 644 \"x\"\n"},
		"global header, passed": {stack{{{Header: headerOf('g')}, file("a", "a")}}, "a 644 \"a\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var layers []Layer
			for _, members := range c.layers {
				layers = append(layers, layer(t, members...))
			}
			if got := listing(t, merged(t, layers...)); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}
