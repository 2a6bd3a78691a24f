package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/sitecmd"
)

// ErrUser says that a service cannot be set up for a user.
var ErrUser = errors.New("the service's user")

// serviceUser is as whom a service will run. The zero value is who sets it up.
type serviceUser struct {
	other    bool
	uid, gid int
}

// lookUpUser returns the user of that name or number, wherever the machine's user
// database has them; "" is oneself. Only root can set up a service for others.
func lookUpUser(name string) (serviceUser, error) {
	if name == "" {
		return serviceUser{}, nil
	}
	u, err := sitecmd.Lookup(context.Background(), name)
	switch {
	case err != nil:
		return serviceUser{}, fmt.Errorf("%w: %w", ErrUser, err)
	case int(u.UID) == os.Geteuid():
		return serviceUser{}, nil
	case os.Geteuid() != 0:
		return serviceUser{}, fmt.Errorf("%w: only root can set up a service for another user, %s", ErrUser, name)
	}
	return serviceUser{other: true, uid: int(u.UID), gid: int(u.GID)}, nil
}

// own gives a file or a directory to the service's user.
func (s serviceUser) own(path string) error {
	if !s.other {
		return nil
	}
	return os.Lchown(path, s.uid, s.gid)
}

// ownAll gives a tree to the service's user.
func (s serviceUser) ownAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return s.own(path)
	})
}

// searchable is the mode of a directory that holds one secret of the service's.
func (s serviceUser) searchable() os.FileMode {
	if s.other {
		return 0o711
	}
	return 0o700
}
