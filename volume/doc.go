// Package volume seals directory trees into single files and reads them back:
// the sealed-volume format, version 1.
package volume
