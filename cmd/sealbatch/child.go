package main

import "github.com/sealbatch/sealbatch/fusefs"

// runChild becomes the inner process of a namespace when started as one.
func runChild(args []string) {
	if len(args) > 1 && args[1] == fusefs.ChildArg {
		fusefs.ChildMain()
	}
}
