package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// signers returns the account key: the configured one, else the usual file's, else those that
// the SSH agent holds, of which one is the account's.
func (c *client) signers(ctx context.Context) ([]ssh.Signer, error) {
	path := &c.conf.Identity.SSHKey
	if *path == userdirs.Key() && absent(*path) && absent(*path+".pub") {
		held, err := sshid.AgentSigners(ctx)
		if err != nil {
			c.a.log.Debug("the SSH agent was not asked for an account key", "error", err)
		}
		if len(held) > 0 {
			*path = "" // no file of this machine's
			return held, nil
		}
	}
	s, err := sshid.LoadSigner(ctx, *path, c.a.passphrase)
	if err != nil {
		return nil, fault.New(fault.Config, fmt.Errorf("[identity] ssh-key: %w", err), orHint(err, keyHint(err, *path)))
	}
	return []ssh.Signer{s}, nil
}

func absent(path string) bool {
	_, err := os.Stat(path)
	return path == "" || errors.Is(err, fs.ErrNotExist)
}

// choose takes the first of several keys that the key service knows.
func (c *client) choose(ctx context.Context, keys []ssh.Signer) error {
	for _, c.signer = range keys {
		if err := c.newKeys(); err != nil || len(keys) == 1 {
			return err
		}
		_, err := c.keys.Account(ctx)
		if err == nil || !errors.Is(err, keyclient.ErrUnauthorised) {
			return err
		}
	}
	return fault.New(fault.Key, fmt.Errorf("none of the %d keys of the SSH agent is of an account of the key service", len(keys)),
		"name the right one as [identity] ssh-key, by its .pub file, or have the key service's operator enrol it")
}

// keyHint says what to do where the account key cannot be read.
func keyHint(err error, path string) string {
	if errors.Is(err, fs.ErrPermission) {
		return userdirs.OwnerHint(path)
	}
	if _, err := os.Lstat(userdirs.Mounted); err == nil && userdirs.Container() && userdirs.SSH() != userdirs.Mounted {
		return userdirs.OwnerHint(userdirs.Mounted)
	}
	return "make one with ssh-keygen -t ed25519, and have the key service's operator enrol it"
}
