package transfer

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestThisHost takes only what leads to this machine from everywhere, as oneself, for this machine.
func TestThisHost(t *testing.T) {
	t.Parallel()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	own := ""
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			own = n.IP.String()
		}
	}
	config := filepath.Join(t.TempDir(), "config")
	text := "Host alias\nHostName " + name + "\nHost jump\nHostName " + name + "\nProxyJump gate\n" +
		"Host command\nHostName " + name + "\nProxyCommand nc %h %p\nHost far\nPort 2222\nHostName " + name + "\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	me := Myself(t.Context())
	for _, c := range []struct {
		o    Options
		want bool
	}{
		{Options{Host: name}, true},
		{Options{Host: name, User: me, Port: 22}, true},
		{Options{Host: "alias"}, true},
		{Options{Host: own}, own != ""},
		{Options{Host: name, ProxyJump: "none"}, true},
		{Options{Host: name, User: "somebody-else"}, false},
		{Options{Host: name, Port: 2222}, false},
		{Options{Host: name, ProxyJump: "gate"}, false},
		{Options{Host: "jump"}, false},
		{Options{Host: "command"}, false},
		{Options{Host: "far"}, false},
		{Options{Host: "localhost"}, false},
		{Options{Host: "127.0.0.1"}, false},
		{Options{Host: "::1"}, false},
		{Options{Host: "192.0.2.1"}, false},
		{Options{Host: "nobody.invalid"}, false},
	} {
		c.o.ConfigFile = config
		if got := c.o.Host != "" && ThisHost(t.Context(), c.o); got != c.want {
			t.Errorf("%+v: %t, want %t", c.o, got, c.want)
		}
	}
}
