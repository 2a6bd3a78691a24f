package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Mode is how volumes reach the commands in a Space. All modes keep the same
// promise: keys and FUSE servers stay with the caller, and once a Space is frozen
// a write beneath a mount whose server died fails.
type Mode int

const (
	// Auto is the first mode that works here.
	Auto Mode = iota
	// Namespace: FUSE is mounted in private user, mount, pid and IPC
	// namespaces. Nothing is left of it once the caller has died.
	Namespace
	// Fusermount: set-uid fusermount3 mounts in the caller's private
	// directory. A dead mount stays if caller and child are killed (Clear).
	Fusermount
	// Runtime: the container runtime mounts, by --fusemount, what its
	// commands see (AddRuntimeTree); the image and what the caller looks at
	// itself are mounted as in Fusermount.
	Runtime
)

var modeNames = [...]string{"auto", "namespace", "fusermount", "runtime"}

// String returns the name that ParseMode takes.
func (m Mode) String() string { return modeNames[m] }

// ParseMode returns the mode called auto, namespace, fusermount or runtime; "" is auto.
func ParseMode(name string) (Mode, error) {
	if name == "" {
		return Auto, nil
	}
	for m, n := range modeNames {
		if n == name {
			return Mode(m), nil
		}
	}
	return Auto, fmt.Errorf("%.40q is not a mount mode: there are %s", name, strings.Join(modeNames[:], ", "))
}

// ErrNoMode: volumes cannot be mounted here in any of the modes that were tried.
var ErrNoMode = errors.New("no mount mode works here")

// Open makes a Space in which mounting has been tried: in opt.Mode, or in the
// first of Namespace and Fusermount that works. (Runtime needs whatever Fusermount
// needs, so it is never the first that works; it has to be asked for.) For a Space
// in the second, why says what was wrong with the first. It fails with ErrNoMode.
func Open(ctx context.Context, opt SpaceOptions) (s *Space, why error, err error) {
	modes := []Mode{Namespace, Fusermount}
	if opt.Mode != Auto {
		modes = []Mode{opt.Mode}
	}
	for _, opt.Mode = range modes {
		s, err := NewSpace(ctx, opt)
		if err == nil {
			if err = s.probe(); err == nil {
				return s, why, nil
			}
			err = errors.Join(err, s.Close())
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		why = errors.Join(why, fmt.Errorf("%v: %w", opt.Mode, err))
	}
	return nil, nil, fmt.Errorf("%w: %w", ErrNoMode, why)
}

// probeName is the mount point of probe; it stays as an empty directory.
const probeName = "probe"

// probe mounts FUSE, served by nobody, and unmounts it.
func (s *Space) probe() error {
	fuse, err := s.connect(probeName, request{Type: "sealbatch", RO: true})
	if err != nil {
		return err
	}
	if fuse == nil {
		return errors.New("no descriptor of a FUSE connection came back")
	}
	return errors.Join(fuse.Close(), s.disconnect(probeName, true))
}

// Mode returns how this Space mounts.
func (s *Space) Mode() Mode { return s.opt.Mode }

// connect mounts a new FUSE connection at rel, which it makes if it is missing.
func (s *Space) connect(rel string, r request) (*os.File, error) {
	if s.opt.Mode == Namespace {
		r.Op = opMount
		return s.ask(rel, r)
	}
	path, err := s.path(rel)
	if err != nil {
		return nil, err
	}
	return s.opt.helper.MountGuarded(path, r.Type, r.RO)
}

// disconnect unmounts rel, lazily with detach.
func (s *Space) disconnect(rel string, detach bool) error {
	if s.opt.Mode == Namespace {
		_, err := s.ask(rel, request{Op: opUnmount, Detach: detach})
		return err
	}
	path, err := s.path(rel)
	if err != nil {
		return err
	}
	return s.opt.helper.Unmount(path, detach)
}
