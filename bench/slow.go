package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// slowCommand runs this program as storage that takes its time, such as the
// servers of a parallel file system: a directory whose reads each take slowRead
// longer, however many there are at once. Names and attributes come at once.
const (
	slowCommand = "slow"
	slowRead    = 2 * time.Millisecond
)

// serveSlow shows dir at mount until that is unmounted.
func serveSlow(dir, mount string) error {
	signal.Ignore(os.Interrupt) // unmounting ends it
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		return err
	}
	hour := time.Hour
	s, err := fs.Mount(mount, &slowNode{root.(*fs.LoopbackNode)}, &fs.Options{EntryTimeout: &hour, AttrTimeout: &hour,
		MountOptions: fuse.MountOptions{DirectMount: true, FsName: dir, MaxBackground: 64}})
	if err != nil {
		return err
	}
	s.Wait()
	return nil
}

type slowNode struct{ *fs.LoopbackNode }

func (n *slowNode) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &slowNode{child.(*fs.LoopbackNode)}
}

func (n *slowNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &slowFile{h.(fs.FileReader), h.(fs.FileReleaser)}, fuseFlags, 0
}

type slowFile struct {
	reader   fs.FileReader
	releaser fs.FileReleaser
}

func (f *slowFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	time.Sleep(slowRead)
	return f.reader.Read(ctx, dest, off)
}

func (f *slowFile) Release(ctx context.Context) syscall.Errno { return f.releaser.Release(ctx) }

// slowly has mount mount what lies at path as if it lay on slow storage.
func (b *bench) slowly(path string, mount func(context.Context, string) (*mounted, error)) func(context.Context) (*mounted, error) {
	return func(ctx context.Context) (*mounted, error) {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		below, err := b.start(ctx, func(dir string) []string { return []string{self, slowCommand, filepath.Dir(path), dir} })
		if err != nil {
			return nil, err
		}
		m, err := mount(ctx, filepath.Join(below.dir, filepath.Base(path)))
		if err != nil {
			_ = below.close()
			return nil, err
		}
		m.below = below
		return m, nil
	}
}

// readingSlowly compares what jobs do with a dataset on slow storage.
func (b *bench) readingSlowly(ctx context.Context) error {
	d := &b.data
	row := func(what string, p plan) contest {
		cipher := func(ctx context.Context, dir string) (*mounted, error) { return b.mountGocryptfs(ctx, dir, true) }
		return contest{what: what, ours: contender{run: cold(b.slowly(d.sealed, b.mountSealed), nil, p.read, d.want(p))}, rest: []contender{
			{"gocryptfs", 0, cold(b.slowly(d.cipher, cipher), nil, p.read, d.want(p))},
		}}
	}
	return b.contests(ctx, fmt.Sprintf("The same on storage where each read takes %v", slowRead),
		row("256 MiB on slow storage, one reader", plan{Names: d.big[:2], Threads: 1}),
		row("1,000 small files on slow storage, in order", plan{Names: d.dirs()[:5], Walk: true, Threads: 1}))
}
