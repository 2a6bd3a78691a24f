package layering

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of floors in docs/architecture.md afresh")

const (
	document = "../../docs/architecture.md"
	begin    = "<!-- floors: go test ./internal/layering -run TestDocument -update -->\n"
	end      = "<!-- end of floors -->\n"
)

// render returns the floors as a Markdown table, with each package's synopsis.
func render(packages []listed) string {
	synopsis := map[string]string{}
	for _, p := range packages {
		synopsis[strings.TrimPrefix(p.ImportPath, module)] = p.Doc
	}
	var b strings.Builder
	b.WriteString("| floor | package | what it is |\n|---|---|---|\n")
	for i, floor := range floors {
		for _, name := range floor {
			doc := strings.TrimSuffix(synopsis[name], ".")
			_, doc, _ = strings.Cut(doc, " "+last(name)+" ") // "Package x does" and "Command x does"
			if doc == "" {
				doc = "is tests only"
			}
			fmt.Fprintf(&b, "| %d | `%s` | %s |\n", len(floors)-i, name, doc)
		}
	}
	return b.String()
}

func last(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// TestDocument keeps the table in docs/architecture.md equal to the floors.
func TestDocument(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(b), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the floors", document)
	}
	want := render(list(t))
	if table == want {
		return
	}
	if !*update {
		t.Fatalf("the floors in %s are out of step: go test ./internal/layering -run TestDocument -update", document)
	}
	if err := os.WriteFile(document, []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

var named = regexp.MustCompile("`((?:cmd|containerprep|dataprep|jobprep|volume|fusefs|slurm|internal|" +
	"e2e|testcluster|docs|tools)/[A-Za-z0-9_./-]*)`")

// TestDocumentsNameFiles: the files and folders that the papers for developers name exist.
func TestDocumentsNameFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{document, "../../CONTRIBUTING.md"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found := named.FindAllSubmatch(b, -1)
		if len(found) < 10 {
			t.Errorf("%s: only %d files and folders are named; are they still written as this test reads them?", name, len(found))
		}
		for _, m := range found {
			if _, err := os.Stat("../../" + string(m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
