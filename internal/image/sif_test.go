package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sylabs/sif/v2/pkg/sif"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// makeSIF writes a SIF file with one partition.
func makeSIF(t testing.TB, kind sif.FSType, part sif.PartType, arch string) string {
	t.Helper()
	input, err := sif.NewDescriptorInput(sif.DataPartition, strings.NewReader(strings.Repeat("file system ", 1000)),
		sif.OptPartitionMetadata(kind, part, arch))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.sif")
	f, err := sif.CreateContainerAtPath(path, sif.OptCreateWithDescriptors(input))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.UnloadContainer(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInspect(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"amd64", "arm64"} {
		path := makeSIF(t, sif.FsSquash, sif.PartPrimSys, arch)
		if err := os.Chmod(path, 0o400); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Inspect(path); err != nil || got != (Info{Format: "SIF", Arch: arch, Size: st.Size()}) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func TestInspectRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, err := os.ReadFile(makeSIF(t, sif.FsSquash, sif.PartPrimSys, "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	patched := func(value int64) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint64(b[totalAt:], uint64(value))
		return b
	}
	if err := syscall.Mkfifo(dir+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, want, hint string }{
		"directory":         {dir, "regular file", ""},
		"named pipe":        {dir + "/pipe", "regular file", ""},
		"empty":             {file("empty", nil), "too short", "apptainer build"},
		"other":             {file("other", bytes.Repeat([]byte("x"), 500)), "not a SIF file", "apptainer build"},
		"many descriptors":  {file("many", patched(1<<60)), "not a SIF file", ""},
		"fewer than none":   {file("negative", patched(-1)), "not a SIF file", ""},
		"cut off":           {file("cut", good[:len(good)-1]), "cut off", ""},
		"no system":         {makeSIF(t, sif.FsSquash, sif.PartData, "amd64"), "no system partition", ""},
		"encrypted already": {makeSIF(t, sif.FsEncryptedSquashfs, sif.PartPrimSys, "amd64"), "encrypted by its runtime", ""},
	} {
		_, err := Inspect(c.path)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(fault.Hint(err), c.hint) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v (hint %q)", name, err, fault.Hint(err))
		}
	}
	if _, err := Inspect(dir + "/none.sif"); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrFormat) {
		t.Errorf("nothing there: %v", err)
	}
}

// Whatever the bytes are, the answer is an error or a partition inside the file.
func FuzzInspect(f *testing.F) {
	good, err := os.ReadFile(makeSIF(f, sif.FsSquash, sif.PartPrimSys, "amd64"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:min(len(good), 40000)])
	f.Add(good[:headerSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		if info, err := inspectFile(bytes.NewReader(b), int64(len(b))); err == nil && (info.Format != "SIF" || info.Size != int64(len(b))) {
			t.Errorf("%+v", info)
		}
	})
}
