package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// migratingPath is the document for HPCS's users, as the tests find it.
const migratingPath = "../../docs/migrating-from-hpcs.md"

// varying are the parts of messages that differ from run to run, and how the document has them.
var varying = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`), "SHA256:..."},
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]+`), "keys.example.org:8443"},
	{regexp.MustCompile(`ssh-(ed25519|rsa) AAAA[A-Za-z0-9+/=]+`), "ssh-$1 AAAA..."},
}

// said returns the messages' lines in text: those that begin with error: or hint:. Warnings depend on the machine, too.
func said(text string) (lines []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if kind, _, ok := strings.Cut(line, ": "); ok && slices.Contains([]string{"error", "hint"}, kind) {
			lines = append(lines, line)
		}
	}
	return lines
}

// quoted returns the messages' lines in the code blocks of a document.
func quoted(document string) (lines []string) {
	for i, block := range strings.Split(document, "```") {
		if i%2 == 1 {
			lines = append(lines, said(block)...)
		}
	}
	return lines
}

// cmdMigrating holds docs/migrating-from-hpcs.md to what the program says. After a command, "migrating quotes" wants its
// messages in the document, word for word; at a script's end, "migrating all" wants every message that the document
// quotes to have been said.
func cmdMigrating(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: migrating quotes | migrating all")
	}
	b, err := os.ReadFile(migratingPath)
	ts.Check(err)
	seen := ts.MkAbs("said")
	before, err := os.ReadFile(seen)
	if err != nil && !os.IsNotExist(err) {
		ts.Check(err)
	}
	document := quoted(string(b))
	if args[0] == "all" {
		for _, line := range document {
			if !slices.Contains(strings.Split(string(before), "\n"), line) {
				ts.Fatalf("the document quotes what nothing here says: %s", line)
			}
		}
		return
	}
	work := ts.Getenv("WORK")
	places := strings.NewReplacer(work+"/scratch", "/scratch/project_1/etellier", work+"/bobs", "/scratch/project_1/bob", work+"/", "")
	lines := said(places.Replace(ts.ReadFile("stderr")))
	if len(lines) == 0 {
		ts.Fatalf("nothing was said")
	}
	for _, line := range lines {
		for _, v := range varying {
			line = v.re.ReplaceAllString(line, v.with)
		}
		if !slices.Contains(document, line) {
			ts.Fatalf("the document does not quote: %s", line)
		}
		before = append(before, line+"\n"...)
	}
	ts.Check(os.WriteFile(seen, before, 0o600))
}

// othersFlags are flags in the document that are not of sealbatch's: the container runtime's, Docker's, and an abbreviation.
var othersFlags = []string{"--bind", "--env", "--home", "--rm", "--nodel"}

// TestMigratingFlags: the flags that docs/migrating-from-hpcs.md names exist.
func TestMigratingFlags(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(migratingPath)
	if err != nil {
		t.Fatal(err)
	}
	var help strings.Builder
	for _, h := range helpTexts(t) {
		help.WriteString(h.Help)
	}
	flags := regexp.MustCompile(`--[a-z][a-z-]*[a-z]`)
	known := append(flags.FindAllString(help.String(), -1), othersFlags...)
	found := flags.FindAllString(string(b), -1)
	for _, f := range found {
		if !slices.Contains(known, f) {
			t.Errorf("no command has %s", f)
		}
	}
	if len(found) < 20 {
		t.Errorf("only %d flags were found", len(found))
	}
}
