package sitecmd_test

import (
	"errors"
	"testing"

	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/sitecmd/sitecmdtest"
)

func TestAccounts(t *testing.T) {
	t.Parallel()
	getent := sitecmdtest.Script(t,
		`[ "$*" = 'passwd -- DOM\alice' ] && printf '%s\n' 'DOM\alice:*:2001:3001:A. Smith:/home/dom/alice:/bin/bash'`)
	got, err := sitecmd.Getent(t.Context(), getent, `DOM\alice`)
	if want := (sitecmd.Account{Name: `DOM\alice`, Home: "/home/dom/alice", UID: 2001, GID: 3001}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for what, text := range map[string]string{
		"numbers": `echo alice:x:-1:1::/:`, "two": `printf 'a:x:1:1::/:\nb:x:1:1::/:\n'`, "none": "exit 2", "cut": "echo alice:x:1:1",
	} {
		if got, err := sitecmd.Getent(t.Context(), sitecmdtest.Script(t, text), "alice"); !errors.Is(err, sitecmd.ErrFailed) ||
			errors.Is(err, sitecmd.ErrNoAccount) != (what == "none") {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	for _, key := range []string{"root", "0"} {
		if got, err := sitecmd.Lookup(t.Context(), key); err != nil || got.Name != "root" || got.UID != 0 {
			t.Errorf("%s: %+v, %v", key, got, err)
		}
	}
	if _, err := sitecmd.Lookup(t.Context(), "no such user"); !errors.Is(err, sitecmd.ErrFailed) {
		t.Errorf("nobody: %v", err)
	}
}
