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
	getent := sitecmdtest.Script(t, `[ "$*" = "passwd 2001" ] && echo "alice:x:2001:2001:Alice:/home/alice:/bin/sh"`)
	id := sitecmdtest.Script(t, `[ "$*" = "--groups --name --zero -- alice" ] && printf 'alice\0project_1\0domain users\0'`)
	got, err := users{getent, id}.lookup(ctx, 2001)
	if want := (User{"alice", []string{"alice", "project_1"}}); err != nil || !reflect.DeepEqual(got, want) {
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
		"groups unknown": {getent, sitecmdtest.Script(t, `printf 'alice\0'; exit 1`)},
	} {
		if got, err := u.lookup(ctx, 2001); !errors.Is(err, sitecmd.ErrFailed) {
			t.Errorf("%s: got %+v, %v, want sitecmd.ErrFailed", name, got, err)
		}
	}
}
