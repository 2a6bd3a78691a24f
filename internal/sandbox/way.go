package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fusemount"
)

// Way is how volumes reach the commands in a Space. All ways keep the same
// promise: keys and FUSE servers stay with the caller, and once a Space is frozen
// a write beneath a mount whose server died fails.
type Way int

const (
	// Auto is the first way that works here.
	Auto Way = iota
	// Namespace is way 1: FUSE is mounted in private user, mount, pid and IPC
	// namespaces. Nothing is left of it once the caller has died.
	Namespace
	// Fusermount is way 2: set-uid fusermount3 mounts in the caller's private
	// directory. A dead mount stays if caller and child are killed (Clear).
	Fusermount
	// Runtime is way 3: the container runtime mounts, by --fusemount, what its
	// commands see (Guests); the image and what the caller looks at itself are
	// mounted as in way 2.
	Runtime
)

var wayNames = [...]string{"auto", "namespace", "fusermount", "runtime"}

// String is the name that ParseWay takes.
func (w Way) String() string { return wayNames[w] }

// ParseWay reads auto, namespace, fusermount or runtime; "" is auto.
func ParseWay(name string) (Way, error) {
	if name == "" {
		return Auto, nil
	}
	for w, n := range wayNames {
		if n == name {
			return Way(w), nil
		}
	}
	return Auto, fmt.Errorf("%.40q is not a way to mount: there are %s", name, strings.Join(wayNames[:], ", "))
}

// ErrNoWay: volumes cannot be mounted here in any of the ways that were tried.
var ErrNoWay = errors.New("no way of mounting works here")

// Open makes a Space in which mounting has been tried: by opt.Way, or by the
// first of ways 1 and 2 that works. (Way 3 needs whatever way 2 needs, so it is
// never the first that works; it has to be asked for.) For a Space by a later
// way, why says what was wrong with the earlier. It fails with ErrNoWay.
func Open(ctx context.Context, opt SpaceOptions) (s *Space, why error, err error) {
	ways := []Way{Namespace, Fusermount}
	if opt.Way != Auto {
		ways = []Way{opt.Way}
	}
	for _, opt.Way = range ways {
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
		why = errors.Join(why, fmt.Errorf("way %d (%v): %w", opt.Way, opt.Way, err))
	}
	return nil, nil, fmt.Errorf("%w: %w", ErrNoWay, why)
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

// Way is the way in which this Space mounts.
func (s *Space) Way() Way { return s.opt.Way }

// connect mounts a new FUSE connection at rel, which it makes if it is missing.
func (s *Space) connect(rel string, r request) (*os.File, error) {
	if s.opt.Way == Namespace {
		r.Op = opMount
		return s.ask(rel, r)
	}
	path, err := s.path(rel)
	if err != nil {
		return nil, err
	}
	return fusemount.MountPrivate(s.opt.fusermount, path, r.Type, r.RO)
}

// disconnect unmounts rel, lazily with detach.
func (s *Space) disconnect(rel string, detach bool) error {
	if s.opt.Way == Namespace {
		_, err := s.ask(rel, request{Op: opUnmount, Detach: detach})
		return err
	}
	path, err := s.path(rel)
	if err != nil {
		return err
	}
	return fusemount.UnmountByHelper(s.opt.fusermount, path, detach)
}
