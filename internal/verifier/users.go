package verifier

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/sitecmd"
)

// users are the site's commands that read its user database: a static binary
// sees /etc/passwd only, not LDAP or SSSD. Empty paths look in the usual
// directories.
type users struct {
	getent, id string // absolute
}

// User is a Unix account with the groups it is in, primary one included.
type User struct {
	Name   string
	Groups []string
}

const (
	maxUserOutput = 256 << 10
	maxGroups     = 4096
)

// lookup resolves uid. Groups whose names no policy could hold are left out, and so are
// those that have no name. Errors wrap sitecmd.ErrFailed.
func (u users) lookup(ctx context.Context, uid uint32) (User, error) {
	a, err := sitecmd.Getent(ctx, u.getent, strconv.FormatUint(uint64(uid), 10))
	switch {
	case err != nil:
		return User{}, fmt.Errorf("look up uid %d: %w", uid, err)
	case a.UID != uid:
		return User{}, fmt.Errorf("%w: getent answered with uid %d for %d", sitecmd.ErrFailed, a.UID, uid)
	case !names.Unix(a.Name):
		return User{}, fmt.Errorf("%w: the user name %.80q of uid %d is not supported", sitecmd.ErrFailed, a.Name, uid)
	}
	groups, err := u.groups(ctx, a.Name)
	if err != nil {
		return User{}, fmt.Errorf("look up the groups of %s: %w", a.Name, err)
	}
	return User{a.Name, groups}, nil
}

// groups returns the names of a user's groups. In place of a name that it does not
// find, id puts the number, and ends with 1: that number must not pass for the name
// of a group, and the other groups count.
func (u users) groups(ctx context.Context, name string) ([]string, error) {
	all, err := u.ask(ctx, "--groups", "--name", "--zero", "--", name)
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(all) > 0 {
		numbers, numbersErr := u.ask(ctx, "--groups", "--zero", "--", name)
		if numbersErr != nil || len(numbers) != len(all) {
			return nil, err
		}
		for i, n := range numbers {
			if _, numberErr := strconv.ParseUint(n, 10, 32); numberErr != nil {
				return nil, err
			}
			if all[i] == n {
				all[i] = ""
			}
		}
	} else if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(g string) bool { return !names.Unix(g) }), nil
}

// ask runs id, which ends each of its words with a zero byte: names of groups may
// hold blanks. Words come with the error of an id that failed.
func (u users) ask(ctx context.Context, args ...string) ([]string, error) {
	out, err := sitecmd.Command{Path: u.id, Name: "id", MaxOutput: maxUserOutput, Args: args}.Run(ctx)
	list, ended := strings.CutSuffix(string(out), "\x00")
	all := strings.Split(list, "\x00")
	if err == nil && (!ended || len(all) > maxGroups) {
		return nil, fmt.Errorf("%w: id answered with a cut list, or with %d groups", sitecmd.ErrFailed, len(all))
	}
	if !ended {
		return nil, err
	}
	return all, err
}
