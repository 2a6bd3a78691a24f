//go:build race

package main

// raceDetector says that programs are ten times slower than they are.
const raceDetector = true
