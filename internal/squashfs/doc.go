// Package squashfs writes SquashFS 4.0 images, as a stream.
package squashfs
