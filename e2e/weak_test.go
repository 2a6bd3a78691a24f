package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// weakness takes one defence out of the product: in a source file (named from
// the repository's root) old becomes new. Without old, the file is a new one. The product itself has no such
// switches: each control run builds programs of its own, without the defence
// that its attack is kept out by.
type weakness struct{ file, old, new string }

// building lets one build run at a time: they would only take turns.
var building sync.Mutex

// weakened builds the programs without the defences and returns the directory,
// on this machine, that holds both.
func weakened(t *testing.T, ws ...weakness) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for i, w := range ws {
		file, err := filepath.Abs(filepath.Join("..", w.file))
		if err != nil {
			t.Fatal(err)
		}
		from := file
		if earlier, ok := replace[file]; ok {
			from = earlier
		}
		src, err := os.ReadFile(from)
		switch n := strings.Count(string(src), w.old); {
		case w.old == "" && os.IsNotExist(err):
		case err != nil:
			t.Fatal(err)
		case w.old == "" || n != 1:
			t.Fatalf("%s holds %d times, not once:\n%s", w.file, n, w.old)
		}
		to := filepath.Join(dir, strings.ReplaceAll(w.file, "/", "_")+string(rune('a'+i)))
		if err := os.WriteFile(to, []byte(strings.Replace(string(src), w.old, w.new, 1)), 0o600); err != nil { // "" is replaced at the start
			t.Fatal(err)
		}
		replace[file] = to
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	building.Lock()
	defer building.Unlock()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", // as make build does
		"-overlay", filepath.Join(dir, "overlay.json"), "-o", filepath.Join(bin, "sealbatch"), "../cmd/sealbatch")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build without %d defences: %v\n%s", len(ws), err, out)
	}
	if err := os.Link("../bin/gocryptfs", filepath.Join(bin, "gocryptfs")); err != nil {
		copied, err := exec.Command("cp", "../bin/gocryptfs", bin).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, copied)
		}
	}
	return bin
}

// installed puts a directory of programs on a host and returns its path there.
func installed(t *testing.T, host, bin string) string {
	t.Helper()
	at := "/opt/weak/" + strings.ReplaceAll(t.Name(), "/", "-")
	to := onDisk(t, host, at)
	if out, err := exec.Command("sh", "-c", `mkdir -p "$2" && chmod 755 "$2" && cp "$1"/* "$2"/ && chmod 755 "$2"/*`,
		"sh", bin, to).CombinedOutput(); err != nil {
		t.Fatalf("install on %s: %v\n%s", host, err, out)
	}
	return at
}

// TestWeakened shows that control runs can be trusted to be what they say.
func TestWeakened(t *testing.T) {
	t.Parallel()
	at := installed(t, "laptop", weakened(t, weakness{"cmd/sealbatch/main.go", "func main() {", "func main() {\n\tprintln(\"weakened\")\n"}))
	if r := run(t.Context(), "laptop", "alice", nil, at+"/sealbatch", "version"); r.code != 0 || !strings.Contains(r.err, "weakened") {
		t.Errorf("%s", r)
	}
}
