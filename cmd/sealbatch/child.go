package main

import (
	"fmt"
	"os"

	"github.com/sealbatch/sealbatch/fusefs"
)

// runChild becomes the inner process of a namespace when started as one.
func runChild(args []string) {
	if len(args) < 2 || args[1] != fusefs.ChildArg {
		return
	}
	if err := fusefs.ChildMain(); err != nil {
		fmt.Fprintln(os.Stderr, "sealbatch: namespace child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
