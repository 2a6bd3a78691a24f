package sshconfig

import (
	"fmt"
	"strings"
	"unicode"
)

// What names must not hold that get into a shell's command (%h, %n, %k and %r of Match exec and ProxyCommand), as
// ssh has it since 9.6 (valid_hostname and valid_ruser in ssh.c): a user may be DOM\alice.
const (
	hostSigns = "'`\"$\\;&<>|(){},"
	userSigns = "'`\";&<>|(){}"
)

// CheckHost returns an error that wraps ErrConfig if a shell, or the program that it runs, could take a host's
// name for something else.
func CheckHost(name string) error {
	if name == "" || name[0] == '-' || strings.ContainsAny(name, hostSigns) ||
		strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return fmt.Errorf("%w: %q is not a host", ErrConfig, name)
	}
	return nil
}

// CheckUser is CheckHost for the name of a user; "" is none.
func CheckUser(name string) error {
	dash := strings.HasPrefix(name, "-")
	for i, r := range name {
		dash = dash || unicode.IsSpace(r) && strings.HasPrefix(name[i+len(string(r)):], "-")
	}
	if dash || strings.ContainsAny(name, userSigns) || strings.ContainsFunc(name, unicode.IsControl) ||
		strings.HasSuffix(name, `\`) {
		return fmt.Errorf("%w: %q is not a user", ErrConfig, name)
	}
	return nil
}

// check returns what CheckHost and CheckUser say of what is asked.
func (q Query) check() error {
	if err := CheckHost(q.Host); err != nil {
		return err
	}
	return CheckUser(q.User)
}
