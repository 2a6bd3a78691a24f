package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// task reads from a tree.
type task func(ctx context.Context, dir string) (haul, error)

// cold measures a task on a mount just made, after caches were dropped. First,
// if not nil, comes before it and does not count.
func cold(mount func(context.Context) (*mounted, error), first, do task, want int64) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (took time.Duration, err error) {
		m, err := mount(ctx)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, m.close()) }()
		if err := dropCaches(); err != nil {
			return 0, err
		}
		if first != nil {
			if _, err := first(ctx, m.dir); err != nil {
				return 0, err
			}
		}
		h, err := do(ctx, m.dir)
		if err == nil && h.Bytes != want {
			err = fmt.Errorf("read %d bytes instead of %d", h.Bytes, want)
		}
		return h.Took, err
	}
}

// reading compares what jobs do with a mounted dataset.
func (b *bench) reading(ctx context.Context) error {
	d := &b.data
	row := func(what string, goal float64, first task, p plan) contest {
		return contest{what: what, ours: contender{run: cold(b.sealedData, first, p.read, d.want(p))}, rest: []contender{
			{"gocryptfs", goal, cold(b.cipherData, first, p.read, d.want(p))},
		}}
	}
	besides := func(c contest, goal float64, first task, p plan) contest {
		c.rest = append(c.rest, contender{"plain tmpfs", goal, cold(plain(d.tree), first, p.read, d.want(p))})
		return c
	}
	big := func(readers int) plan { return plan{Names: d.big, Threads: readers} }
	random := func(depth int) contest {
		n := b.scaled(20_000)
		return row(fmt.Sprintf("%d random reads of 4 KiB, %d at once", n, depth), 1.2, nil, plan{Names: d.big, Threads: depth, Blocks: n})
	}
	inOrder := plan{Names: d.dirs(), Walk: true, Threads: 1}
	return b.contests(ctx, "Reading a mounted dataset",
		row("1 GiB, cold, one reader", 1.5, nil, big(1)),
		row("1 GiB, cold, four readers", 1.5, nil, big(4)),
		besides(row("1 GiB, second time", 0, big(1).read, big(1)), 0.8, big(1).read, big(1)),
		besides(row("20,000 small files, cold", 3, nil, inOrder), 0, nil, inOrder),
		row("20,000 small files, cold, by name, each in another directory", 3, nil, plan{Names: d.small, Threads: 1}),
		b.finding("find over 100,000 files"),
		b.finding("find -size over 100,000 files", "-size", "+1000c"),
		random(1), random(16))
}

// sealedData mounts the sealed data and notes how much memory that took.
func (b *bench) sealedData(ctx context.Context) (*mounted, error) {
	m, err := b.mountSealed(ctx, b.data.sealed)
	if m != nil {
		m.note = func(mb float64) { b.memory[memoryData] = append(b.memory[memoryData], mb) }
	}
	return m, err
}

func (b *bench) cipherData(ctx context.Context) (*mounted, error) {
	return b.mountGocryptfs(ctx, b.data.cipher, true)
}

// plain returns a directory as it is.
func plain(dir string) func(context.Context) (*mounted, error) {
	return func(context.Context) (*mounted, error) { return &mounted{dir: dir}, nil }
}

// finding compares find over the tree of many files.
func (b *bench) finding(what string, args ...string) contest {
	find := func(ctx context.Context, dir string) (haul, error) {
		took, err := b.timed(ctx, append([]string{"find", dir}, args...)...)
		return haul{Took: took}, err
	}
	sealed := func(ctx context.Context) (*mounted, error) {
		m, err := b.mountSealed(ctx, b.data.sealedWide)
		if m != nil {
			m.note = func(mb float64) { b.memory[memoryWide] = append(b.memory[memoryWide], mb) }
		}
		return m, err
	}
	cipher := func(ctx context.Context) (*mounted, error) { return b.mountGocryptfs(ctx, b.data.cipherWide, true) }
	return contest{what: what, ours: contender{run: cold(sealed, nil, find, 0)}, rest: []contender{
		{"gocryptfs", 3, cold(cipher, nil, find, 0)},
		{"plain tmpfs", 0, cold(plain(b.data.wide), nil, find, 0)},
	}}
}
