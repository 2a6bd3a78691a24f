package main

// runChild becomes the inner process of a namespace when started as one.
func runChild([]string) {}
