package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"text/template"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/noderun"
)

var update = flag.Bool("update", false, "write docs/cli.md afresh")

// cliPath is where the document lies.
const cliPath = "../../docs/cli.md"

// codeMeanings describe the exit codes; `sealbatch help` lists the same ones.
var codeMeanings = []struct {
	Code    int
	Meaning string
}{
	{0, "done"},
	{exitCodes[fault.Other], "anything not below"},
	{exitCodes[fault.Usage], "usage: wrong flags, arguments or input"},
	{exitCodes[fault.Config], "configuration: a file is missing, or a key in it is wrong"},
	{exitCodes[fault.SSH], "SSH: connection, login or host key"},
	{exitCodes[fault.Attestation], "attestation refused: the key service does not believe a node's evidence"},
	{exitCodes[fault.Key], "key refused: by a policy, by the key service, or because no identity opens the volume"},
	{exitCodes[fault.Integrity], "integrity: a signature, digest or authentication tag is wrong"},
	{exitCodes[fault.Slurm], "Slurm: one of its commands failed, it refused the job, or it will never start it"},
	{exitCodes[fault.Job], "the job failed, or has not ended yet"},
	{exitCodes[fault.Incomplete], "not all: what could be kept is there, and what could not is named"},
	{exitCodes[fault.Empty], "the job has ended, and left nothing to open"},
	{exitCodes[fault.Interrupted], "interrupted: Ctrl-C or SIGTERM"},
}

type commandHelp struct{ Name, Help string }

// helpTexts runs every command's --help, as a user would.
func helpTexts(t *testing.T) []commandHelp {
	t.Helper()
	var out []commandHelp
	for _, c := range commands() {
		if c.run == nil || c.hidden {
			continue
		}
		var stdout, stderr bytes.Buffer
		err := c.run(t.Context(), &app{stdin: os.Stdin, stdout: &stdout, stderr: &stderr}, []string{"--help"})
		if !errors.Is(err, flag.ErrHelp) || stderr.Len() > 0 {
			t.Errorf("sealbatch %s --help: %v, standard error %q", c.name, err, &stderr)
		}
		out = append(out, commandHelp{c.name, stdout.String()})
	}
	return out
}

// TestHelp holds every help text to what people need: what the command does,
// how it is called, and an example of it that could be typed.
func TestHelp(t *testing.T) {
	t.Parallel()
	texts := helpTexts(t)
	if len(texts) < 14 {
		t.Errorf("%d commands have a help text", len(texts))
	}
	for _, h := range texts {
		_, example, ok := strings.Cut(h.Help, "\nExample:\n")
		if !ok || !strings.HasPrefix(example, "  sealbatch "+h.Name) {
			t.Errorf("sealbatch %s --help has no example of the command:\n%s", h.Name, h.Help)
		}
		if !strings.Contains(h.Help, "\nUsage: sealbatch "+h.Name) {
			t.Errorf("sealbatch %s --help does not say how it is called:\n%s", h.Name, h.Help)
		}
		for line := range strings.Lines(h.Help) {
			if len(line) > 140 {
				t.Errorf("sealbatch %s --help has a line of %d characters: %s", h.Name, len(line), line)
			}
		}
	}
}

// TestExitCodesAreDocumented compares `sealbatch help` with the table.
func TestExitCodesAreDocumented(t *testing.T) {
	t.Parallel()
	var help bytes.Buffer
	usage(&help)
	_, codes, ok := strings.Cut(help.String(), "Exit codes:")
	if !ok {
		t.Fatal("sealbatch help lists no exit codes")
	}
	listed := map[string]bool{}
	for _, n := range regexp.MustCompile(`\b[0-9]+\b`).FindAllString(codes, -1) {
		listed[n] = true
	}
	for _, c := range codeMeanings[1:] {
		if !listed[fmt.Sprint(c.Code)] {
			t.Errorf("sealbatch help does not list exit code %d: %s", c.Code, c.Meaning)
		}
		delete(listed, fmt.Sprint(c.Code))
	}
	if len(listed) > 0 {
		t.Errorf("sealbatch help lists codes that nothing explains: %v", listed)
	}
}

// TestCLIDocument fails when docs/cli.md is not what the program says of itself.
func TestCLIDocument(t *testing.T) {
	t.Parallel()
	tmpl, err := template.ParseFiles("testdata/cli.md.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	err = tmpl.Execute(&want, map[string]any{
		"Commands": helpTexts(t), "Codes": codeMeanings, "Supervisor": noderun.ExitMeanings(),
		"JobCode": exitCodes[fault.Job], "Input": noderun.ExitInput, "Output": noderun.ExitOutput, "Driver": "run.sh",
	})
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(cliPath, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(cliPath)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("docs/cli.md is stale: go test ./cmd/sealbatch -run TestCLIDocument -update, and look at the difference")
	}
}
