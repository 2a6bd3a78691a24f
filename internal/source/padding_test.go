package source

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPadding: what tapes, disks and several runs of a compressor leave behind an archive is no damage, as for tar and the
// programs that it calls; anything else there is.
func TestPadding(t *testing.T) {
	t.Parallel()
	plain := pack(t, file("a"), file("b"))
	want, err := read(t, plain, "")
	must(t, err)
	compress := func(b []byte, command ...string) []byte {
		c := exec.Command(command[0], command[1:]...)
		c.Stdin = bytes.NewReader(b)
		out, err := c.Output()
		must(t, err)
		return out
	}
	half := len(plain) / 2
	for _, program := range []string{"gzip", "bzip2", "xz", "zstd"} {
		whole := compress(plain, program, "-c")
		joined := append(compress(plain[:half], program, "-c"), compress(plain[half:], program, "-c")...)
		good := map[string][]byte{"whole": whole, "joined": joined}
		if program != "zstd" { // whose own program takes no zeros, either
			good["padded"] = append(bytes.Clone(whole), make([]byte, 10240)...)
			good["joined, padded"] = append(bytes.Clone(joined), make([]byte, 512)...)
		}
		for name, b := range good {
			if got, err := read(t, b, ""); err != nil || got != want {
				t.Errorf("%s, %s: %v\n%s", program, name, err, got)
			}
		}
		for name, b := range map[string][]byte{
			"garbage": append(bytes.Clone(whole), "garbage"...), "zeros and garbage": append(append(bytes.Clone(whole), make([]byte, 512)...), 'x'),
			"cut": whole[:len(whole)-1],
		} {
			if got, err := read(t, b, ""); err == nil {
				t.Errorf("%s, %s: passes\n%s", program, name, got)
			}
		}
	}
	if got, err := read(t, append(bytes.Clone(plain), make([]byte, 1<<20)...), ""); err != nil || got != want {
		t.Errorf("not compressed, padded: %v", err)
	}
}

// TestTarLabels: archives of GNU tar with a label, of an incremental backup, with a global header, and the first and second
// of several volumes.
func TestTarLabels(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run(t, dir, "mkdir", "d")
	must(t, os.WriteFile(filepath.Join(dir, "d", "f"), bytes.Repeat([]byte("text"), 5000), 0o644))
	run(t, dir, "tar", "-cf", "plain.tar", "d")
	list := func(name string) (string, error) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		return read(t, b, "")
	}
	want, err := list("plain.tar")
	must(t, err)
	for name, args := range map[string][]string{
		"gnu label":   {"--format=gnu", "--label=backup of d"},
		"pax label":   {"--format=posix", "--label=backup of d"},
		"incremental": {"--format=gnu", "--listed-incremental=" + dir + "/state"},
		"v7":          {"--format=v7"},
		"blocks":      {"--blocking-factor=2048"},
	} {
		run(t, dir, "rm", "-f", "state")
		run(t, dir, "tar", append(args, "-cf", "x.tar", "d")...)
		if got, err := list("x.tar"); err != nil || withoutFraction(got) != withoutFraction(want) {
			t.Errorf("%s: %v\n%.200s\n%.200s", name, err, got, want)
		}
	}
	records := map[string]string{"mtime": "12345.5", "comment": "x"}
	global := pack(t, tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: records}, file("a"))
	if got, err := read(t, global, ""); err != nil || !strings.Contains(got, "12345.500000000") {
		t.Errorf("global header: %v\n%s", err, got)
	}
	run(t, dir, "tar", "-cf", "one.tar", "--format=gnu", "-M", "-L", "10", "-F", "printf two.tar >&$TAR_FD", "d")
	if _, err := list("one.tar"); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("the first of two: %v", err)
	}
	if _, err := list("two.tar"); err == nil || !strings.Contains(err.Error(), "multi-volume") {
		t.Errorf("the second of two: %v", err)
	}
}

// withoutFraction takes the fractions of times off, which only some formats have.
func withoutFraction(list string) string {
	var out []string
	for line := range strings.Lines(list) {
		before, after, ok := strings.Cut(line, ".")
		if ok && len(after) > 9 {
			line = before + after[9:]
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}
