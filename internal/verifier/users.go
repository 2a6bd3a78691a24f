package verifier

import (
	"context"
	"fmt"
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

// lookup resolves uid. Groups whose names no policy could hold, such as
// "domain users", are left out. Errors wrap sitecmd.ErrFailed.
func (u users) lookup(ctx context.Context, uid uint32) (User, error) {
	out, err := sitecmd.Command{
		Path: u.getent, Name: "getent", MaxOutput: maxUserOutput,
		Args: []string{"passwd", strconv.FormatUint(uint64(uid), 10)},
	}.Run(ctx)
	if err != nil {
		return User{}, fmt.Errorf("look up uid %d: %w", uid, err)
	}
	name, err := parsePasswd(string(out), uid)
	if err != nil {
		return User{}, err
	}
	// -z: names of groups may hold blanks.
	out, err = sitecmd.Command{
		Path: u.id, Name: "id", MaxOutput: maxUserOutput,
		Args: []string{"--groups", "--name", "--zero", "--", name},
	}.Run(ctx)
	if err != nil {
		return User{}, fmt.Errorf("look up the groups of %s: %w", name, err)
	}
	groups, err := parseGroups(string(out))
	if err != nil {
		return User{}, fmt.Errorf("look up the groups of %s: %w", name, err)
	}
	return User{name, groups}, nil
}

// parsePasswd takes exactly one passwd(5) line, of uid.
func parsePasswd(s string, uid uint32) (string, error) {
	f := strings.Split(strings.TrimSuffix(s, "\n"), ":")
	if len(f) != 7 || strings.Contains(s[:max(0, len(s)-1)], "\n") || f[2] != strconv.FormatUint(uint64(uid), 10) {
		return "", fmt.Errorf("%w: getent did not answer with one account of uid %d", sitecmd.ErrFailed, uid)
	}
	if !names.Unix(f[0]) {
		return "", fmt.Errorf("%w: the user name %.80q of uid %d is not supported", sitecmd.ErrFailed, f[0], uid)
	}
	return f[0], nil
}

func parseGroups(s string) ([]string, error) {
	list, ended := strings.CutSuffix(s, "\x00")
	all := strings.Split(list, "\x00")
	if !ended || len(all) > maxGroups {
		return nil, fmt.Errorf("%w: id answered with a cut list, or with %d groups", sitecmd.ErrFailed, len(all))
	}
	var known []string
	for _, g := range all {
		if names.Unix(g) {
			known = append(known, g)
		}
	}
	return known, nil
}
