package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

//go:embed hpcs.py
var hpcsProgram []byte

// hpcsState is what HPCS's steps hand on.
type hpcsState struct {
	prepared []time.Duration // each takes a minute: the rounds of shipping add these, in order
	shipped  int
}

func (b *bench) hpcsFile() string { return b.path("encrypted_data.tgz") }

// hpcsPrepare is data-prep's part without a server: pack, compress, encrypt. The
// file stays for the next steps.
func (b *bench) hpcsPrepare(ctx context.Context) (time.Duration, error) {
	took, err := b.hpcsRun(ctx, "prepare", b.data.tree, b.hpcsFile(), b.recipient)
	b.hpcs.prepared = append(b.hpcs.prepared, took)
	return took, err
}

// hpcsShip copies what hpcsPrepare made, and adds the time that making it took.
func (b *bench) hpcsShip(ctx context.Context) (time.Duration, error) {
	if b.hpcs.shipped == len(b.hpcs.prepared) {
		if _, err := b.hpcsPrepare(ctx); err != nil {
			return 0, err
		}
	}
	prepared := b.hpcs.prepared[b.hpcs.shipped]
	b.hpcs.shipped++
	out := b.path("shipped.tgz")
	defer os.Remove(out)
	took, err := b.hpcsRun(ctx, "ship", b.hpcsFile(), out, fmt.Sprint(b.ssh.port), b.ssh.rsa)
	return prepared + took, err
}

func (b *bench) hpcsRun(ctx context.Context, args ...string) (time.Duration, error) {
	program := b.path("hpcs.py")
	if err := os.WriteFile(program, hpcsProgram, 0o600); err != nil {
		return 0, err
	}
	return b.timed(ctx, append([]string{"/usr/bin/python3", program}, args...)...)
}

// node compares how long a job waits for its data, the key being there.
func (b *bench) node(ctx context.Context) error {
	return b.contests(ctx, "On the node, until the application can read",
		contest{what: "first byte of the dataset", ours: contender{run: b.firstByteOf(b.data.sealed, b.data.big[0])}, rest: []contender{
			{"HPCS: age, tar into gocryptfs", 0, b.hpcsUnpack},
		}})
}

// hpcsUnpack does what HPCS's container does first: it decrypts and unpacks into a
// gocryptfs volume.
func (b *bench) hpcsUnpack(ctx context.Context) (took time.Duration, err error) {
	if _, err := os.Stat(b.hpcsFile()); err != nil {
		if _, err := b.hpcsPrepare(ctx); err != nil {
			return 0, err
		}
	}
	cipher := b.path("hpcs-input")
	defer os.RemoveAll(cipher)
	if err := b.initCipher(ctx, cipher); err != nil {
		return 0, err
	}
	m, err := b.mountGocryptfs(ctx, cipher, false)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	tgz := filepath.Join(m.dir, "decrypted_data.tgz")
	begin := time.Now()
	err = b.pipe(ctx, fmt.Sprintf("age --decrypt -i %s -o %s %s && cd %s && tar xvf %s > /dev/null", b.identity, tgz,
		b.hpcsFile(), m.dir, tgz))
	if err == nil {
		_, err = os.ReadFile(filepath.Join(m.dir, "data", b.data.small[0]))
	}
	return time.Since(begin), err
}
