package verifier

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/sitecmd/sitecmdtest"
)

func TestUsers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	getent := sitecmdtest.Script(t, `[ "$*" = "passwd -- 2001" ] && echo "alice:x:2001:2001:Alice:/home/alice:/bin/sh"`)
	id := sitecmdtest.Script(t, `[ "$*" = "--groups --name --zero -- alice" ] && printf 'alice\0project_1\0domain users\0a:b\0'`)
	got, err := users{getent, id}.lookup(ctx, 2001)
	if want := (User{"alice", []string{"alice", "project_1", "domain users"}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	// As Active Directory has them; a group without a name is left out, whatever its number.
	getentAD := sitecmdtest.Script(t, `[ "$*" = "passwd -- 2001" ] && printf '%s\n' 'DOM\alice:*:2001:2001::/home/alice:/bin/sh'`)
	idAD := sitecmdtest.Script(t, `case "$*" in
		"--groups --name --zero -- DOM\\alice") printf 'DOM\\domain users\00070000\0alice$\0'; exit 1 ;;
		"--groups --zero -- DOM\\alice") printf '2001\00070000\0009\0' ;; esac`)
	got, err = users{getentAD, idAD}.lookup(ctx, 2001)
	if want := (User{`DOM\alice`, []string{`DOM\domain users`, "alice$"}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	// The machine's own database, through the real commands.
	if got, err := (users{}).lookup(ctx, 0); err != nil || got.Name != "root" || len(got.Groups) == 0 || got.Groups[0] != "root" {
		t.Errorf("root: %+v, %v", got, err)
	}
	if _, err := (users{}).lookup(ctx, 4294967290); !errors.Is(err, sitecmd.ErrFailed) {
		t.Errorf("unknown uid: %v", err)
	}
	for name, u := range map[string]users{
		"another uid":    {sitecmdtest.Script(t, `echo "alice:x:2002:1::/:"`), id},
		"two lines":      {sitecmdtest.Script(t, `printf 'alice:x:2001:1::/:\nbob:x:2001:1::/:\n'`), id},
		"a short line":   {sitecmdtest.Script(t, `echo alice:x:2001`), id},
		"an odd name":    {sitecmdtest.Script(t, `echo "-x:x:2001:1::/:"`), id},
		"no answer":      {sitecmdtest.Script(t, `exit 2`), id},
		"groups cut":     {getent, sitecmdtest.Script(t, `printf 'alice\0proj'`)},
		"other numbers":  {getent, sitecmdtest.Script(t, `case "$*" in *--name*) printf 'alice\0007\0'; exit 1 ;; esac; printf '1\0'`)},
		"groups unknown": {getent, sitecmdtest.Script(t, `printf 'alice\0'; exit 1`)},
	} {
		if got, err := u.lookup(ctx, 2001); !errors.Is(err, sitecmd.ErrFailed) {
			t.Errorf("%s: got %+v, %v, want sitecmd.ErrFailed", name, got, err)
		}
	}
}
