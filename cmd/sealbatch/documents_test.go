package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/shellwords"
)

// documents are where people copy commands from.
func documents(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	units, err := filepath.Glob("../../deploy/systemd/*.service")
	if err != nil {
		t.Fatal(err)
	}
	docs = append(docs, units...)
	if readme := "../../README.md"; exists(readme) {
		docs = append(docs, readme)
	}
	return docs
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// typed returns the sealbatch commands in a document's code blocks, continued
// lines joined, redirections and pipes cut off.
func typed(document string) (out []string) {
	code := false
	document = strings.ReplaceAll(document, "\\\n", " ")
	for line := range strings.Lines(document) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			code = !code
		case strings.HasPrefix(line, "ExecStart="):
			_, line, _ = strings.Cut(line, "/bin/")
			out = append(out, line)
		case code && strings.HasPrefix(line, "sealbatch "):
			line, _, _ = strings.Cut(line, " >")
			line, _, _ = strings.Cut(line, " | ")
			out = append(out, line)
		}
	}
	return out
}

// parses gives a command's words to the real parser of its flags, which reads
// them all before it meets --help.
func parses(words []string) error {
	c, rest, ok := findCommand(words)
	if !ok {
		return errors.New("no such command: " + words[0])
	}
	var help bytes.Buffer
	err := c.run(context.Background(), &app{stdin: os.Stdin, stdout: &help, stderr: &help}, append(rest[:len(rest):len(rest)], "--help"))
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return err
}

// TestDocumentedCommands: every command that a document shows has flags that exist.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	found := 0
	for _, doc := range documents(t) {
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range typed(string(b)) {
			if strings.Contains(line, "COMMAND") || strings.Contains(line, "[flags]") {
				continue
			}
			words, err := shellwords.SplitArgs(line)
			if err != nil {
				t.Errorf("%s: %s: %v", doc, line, err)
				continue
			}
			if err := parses(words[1:]); err != nil {
				t.Errorf("%s: %s: %v", doc, line, err)
			}
			found++
		}
	}
	if found < 20 {
		t.Errorf("only %d commands were found", found)
	}
}

// TestDocumentedCommandsBite: a flag that does not exist is found.
func TestDocumentedCommandsBite(t *testing.T) {
	t.Parallel()
	lines := typed("text sealbatch no\n```sh\nsealbatch seal \\\n  x --nosuch y >z\n```\n" +
		"ExecStart=/usr/local/bin/sealbatch nosuch --config x\n")
	if len(lines) != 2 || lines[0] != "sealbatch seal    x --nosuch y" {
		t.Fatalf("typed = %q", lines)
	}
	for _, l := range lines {
		if err := parses(strings.Fields(l)[1:]); err == nil {
			t.Errorf("%q passes", l)
		}
	}
}
