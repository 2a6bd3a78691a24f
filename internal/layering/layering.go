// Package layering holds the test that keeps imports pointing down. The floors,
// top first, are in layering_test.go.
package layering
