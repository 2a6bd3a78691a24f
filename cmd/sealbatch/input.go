package main

import (
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// inputFlags say what is sealed.
type inputFlags struct {
	paths, exclude []string
	asFile         bool
}

func (i *inputFlags) add(f *ui.Flags) {
	f.Strings(&i.exclude, "leave out what matches this, in the way of gitignore: *.log at any depth, /tmp/ only the "+
		"directory at the top,\n** any number of directories; no negation; may be repeated", []string{"exclude"})
	f.Bool(&i.asFile, "seal an archive, or standard input, as one file (standard input's is called --name)", []string{"as-file"})
}

func (i *inputFlags) input(a *app) (source.Input, error) {
	patterns, err := source.ParsePatterns(i.exclude)
	if err != nil {
		return source.Input{}, fault.New(fault.Usage, err, "--exclude takes patterns such as *.log, tmp/ or /results/**/*.tmp")
	}
	return source.Input{Paths: i.paths, Exclude: patterns, AsFile: i.asFile, Stdin: a.stdin}, nil
}
