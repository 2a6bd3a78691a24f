package main

import (
	"fmt"
	"os"

	"github.com/sealbatch/sealbatch/internal/sandbox"
)

// runChild becomes the child of a sandbox's Space, or what passes it the container
// runtime's mounts, when started as one.
func runChild(args []string) {
	if len(args) < 2 {
		return
	}
	var what string
	var err error
	switch args[1] {
	case sandbox.ChildArg:
		what, err = "child of the mounts", sandbox.ChildMain()
	case sandbox.PassArg:
		what, err = "mount by the container runtime", sandbox.PassMain(args[2:])
	default:
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sealbatch: %s: %v\n", what, err)
		os.Exit(1)
	}
	os.Exit(0)
}
