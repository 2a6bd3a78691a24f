package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/sifbuild"
	"github.com/sealbatch/sealbatch/volume"
)

// convertCommand runs this program as what makes a SIF file of an image, prepareCommand as what seals one.
const (
	convertCommand = "convert-image"
	prepareCommand = "prepare-image"
)

// equalLevel is the level of gzip that container-prep takes.
const equalLevel = "6"

// made is what the contenders of a contest took besides time.
type made struct {
	cpu    [][]time.Duration // element i holds those of contender i, as contest.hold has the times
	memory []float64         // in MB
}

// imaging compares preparing a container image with what else makes a file of it that runs.
func (b *bench) imaging(ctx context.Context) error {
	begun := false
	for _, megabytes := range []int{smallImage, largeImage} {
		what := fmt.Sprintf("image of %d MB", megabytes)
		start := megabytes == smallImage && b.only.MatchString(startRow)
		if !b.only.MatchString(what) && !start {
			continue
		}
		if !begun {
			if err := b.startApptainer(ctx); err != nil {
				return err
			}
			begun = true
		}
		b.say("making an %s", what)
		if err := b.makeImage(ctx, b.scaled(megabytes)); err != nil {
			return err
		}
		if err := b.preparing(ctx, what); err != nil {
			return err
		}
		if start {
			if err := b.starting(ctx); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(b.path(imageDir)); err != nil {
			return err
		}
	}
	return nil
}

// preparing holds the contests of one image.
func (b *bench) preparing(ctx context.Context, what string) error {
	var whole, alone made
	oci, archive := "oci:"+b.imagePath("oci"), "docker-archive:"+b.imagePath("saved.tar")
	sealed, sif := b.imagePath("image.sealed"), b.imagePath("ours.sif")
	prepare := contest{what: what + ": prepare", ours: contender{run: whole.note(0, b.own(prepareCommand, oci, sealed, b.recipient))},
		rest: []contender{{"apptainer build", 5, whole.note(1, b.apptainerBuild)}}}
	convert := contest{what: what + ": convert layers that are not compressed",
		ours: contender{run: alone.note(0, b.own(convertCommand, archive, sif))},
		rest: []contender{{"mksquashfs -tar, gzip " + equalLevel, 2, alone.note(1, b.mksquashfs)}}}
	if err := b.contests(ctx, "Container images", prepare, convert); err != nil {
		return err
	}
	prepare.what, convert.what = prepare.what+", processor time", convert.what+", processor time"
	for c, m := range map[*contest]*made{&prepare: &whole, &convert: &alone} {
		if len(m.cpu[0]) > 0 && len(m.cpu[1]) > 0 {
			fmt.Fprint(b.out, c.rows(m.cpu))
		}
	}
	fs := []figure{{what + ": peak memory, prepare", "MB", whole.memory, 200}}
	if len(whole.cpu[1]) > 0 && len(alone.cpu[0]) > 0 {
		ours, reference, err := sizesOf(sif, b.imagePath("reference.sif"))
		if err != nil {
			return err
		}
		fs = append(fs, figure{what + ": size of the SIF file", "MB", []float64{ours}, 0},
			figure{what + ": size of the SIF file, by that of apptainer build", "", []float64{ours / reference}, 1.1})
	}
	b.figures("Container images: memory and size", fs...)
	return nil
}

// note has m remember what contender i took of the processors, and of memory if it is our own.
func (m *made) note(i int, start func(context.Context) (*exec.Cmd, error)) func(context.Context) (time.Duration, error) {
	for len(m.cpu) <= i {
		m.cpu = append(m.cpu, nil)
	}
	return func(ctx context.Context) (time.Duration, error) {
		cmd, err := start(ctx)
		if err != nil {
			return 0, err
		}
		cmd.Stderr = new(tail)
		begin := time.Now()
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		ended, peak := make(chan struct{}), make(chan float64)
		go func() { peak <- watchMemory(cmd.Process.Pid, ended) }()
		err = cmd.Wait()
		took := time.Since(begin)
		close(ended)
		if memory := <-peak; i == 0 {
			m.memory = append(m.memory, memory)
		}
		if err != nil {
			return 0, fmt.Errorf("%q: %w\n%s", cmd.Args, err, cmd.Stderr)
		}
		m.cpu[i] = append(m.cpu[i], cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		return took, nil
	}
}

// own starts this program as one of its helpers, which have container-prep's code.
func (b *bench) own(args ...string) func(context.Context) (*exec.Cmd, error) {
	return func(ctx context.Context) (*exec.Cmd, error) {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return exec.CommandContext(ctx, self, args...), os.RemoveAll(args[2])
	}
}

// mksquashfs is what sqfstar is besides; that takes no level (squashfs-tools 4.5.1).
func (b *bench) mksquashfs(ctx context.Context) (*exec.Cmd, error) {
	in, err := os.Open(b.imagePath("flat.tar"))
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { in.Close() })
	out := b.imagePath("peer.sqfs")
	cmd := exec.CommandContext(ctx, "mksquashfs", "-", out, "-tar", "-no-progress", "-comp", "gzip", "-Xcompression-level", equalLevel)
	cmd.Stdin = in
	return cmd, os.RemoveAll(out)
}

func sizesOf(a, b string) (x, y float64, err error) {
	first, err := os.Stat(a)
	if err != nil {
		return 0, 0, err
	}
	second, err := os.Stat(b)
	if err != nil {
		return 0, 0, err
	}
	return float64(first.Size()) / 1e6, float64(second.Size()) / 1e6, nil
}

// convertImage writes the SIF file of an image to path, as container-prep does into the volume.
func convertImage(ctx context.Context, name, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return withImage(ctx, name, func(s sifbuild.Source) error {
		return s.Walk(ctx, func(e volume.Entry) (uint32, error) {
			if e.Late == nil {
				return 0, nil
			}
			head, err := e.Late.Write(ctx, io.NewOffsetWriter(f, e.Late.HeadSize))
			if err != nil {
				return 0, err
			}
			_, err = f.WriteAt(head, 0)
			return 1, err
		})
	})
}

// prepareImage seals an image, as container-prep does before and while it uploads.
func prepareImage(ctx context.Context, name, path, recipient string) error {
	r, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return err
	}
	return withImage(ctx, name, func(s sifbuild.Source) error {
		_, err := volume.SealFile(ctx, path, s, volume.SealOptions{Recipients: []age.Recipient{r}})
		return err
	})
}

func withImage(ctx context.Context, name string, do func(sifbuild.Source) error) (err error) {
	img, err := image.Open(ctx, name, image.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	return do(sifbuild.Source{Image: img, FileName: "image.sif"})
}
