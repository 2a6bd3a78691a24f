package sitecmd

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
)

// Account is one line of a user database, passwd(5).
type Account struct {
	Name, Home string
	UID, GID   uint32
}

// ErrNoAccount says that the user database was asked, and knows no such account. It is ErrFailed, too.
var ErrNoAccount error = noAccount{}

type noAccount struct{}

func (noAccount) Error() string        { return "this machine knows no such user" }
func (noAccount) Is(target error) bool { return target == ErrFailed }

// getentUnknown is getent's exit status where what was asked for is not there.
const getentUnknown = 2

// maxAccount bounds what getent says of one account, in bytes.
const maxAccount = 256 << 10

// Getent asks the user database for an account, by its name or uid. A static binary reads /etc/passwd only, and
// not LDAP or SSSD. path is where getent is; "" looks in the usual directories. Errors wrap ErrFailed.
func Getent(ctx context.Context, path, key string) (Account, error) {
	out, err := Command{Path: path, Name: "getent", Args: []string{"passwd", "--", key}, MaxOutput: maxAccount}.Run(ctx)
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended) && ended.ExitCode() == getentUnknown:
		return Account{}, fmt.Errorf("%w: %.80q", ErrNoAccount, key)
	case err != nil:
		return Account{}, fmt.Errorf("look up %.80q: %w", key, err)
	}
	line := strings.TrimSuffix(string(out), "\n")
	f := strings.Split(line, ":")
	if len(f) != 7 || strings.Contains(line, "\n") {
		return Account{}, fmt.Errorf("%w: getent did not answer with one account for %.80q", ErrFailed, key)
	}
	uid, err := strconv.ParseUint(f[2], 10, 32)
	gid, gerr := strconv.ParseUint(f[3], 10, 32)
	if err != nil || gerr != nil {
		return Account{}, fmt.Errorf("%w: getent answered with the numbers %.40q and %.40q for %.80q", ErrFailed, f[2], f[3], key)
	}
	return Account{Name: f[0], Home: f[5], UID: uint32(uid), GID: uint32(gid)}, nil
}

// Lookup returns an account by its name or uid: /etc/passwd's, or what getent says.
func Lookup(ctx context.Context, key string) (Account, error) {
	u, err := user.Lookup(key)
	if err != nil {
		u, err = user.LookupId(key)
	}
	if err != nil {
		return Getent(ctx, "", key)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil || gerr != nil {
		return Account{}, fmt.Errorf("%w: %.80q has the numbers %.40q and %.40q", ErrFailed, key, u.Uid, u.Gid)
	}
	return Account{Name: u.Username, Home: u.HomeDir, UID: uint32(uid), GID: uint32(gid)}, nil
}
