package sshconfig

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestMountedDirectory reads a configuration that was mounted elsewhere than at ~/.ssh, as HPCS's containers have it:
// its paths mean what lies there.
func TestMountedDirectory(t *testing.T) {
	dir := t.TempDir()
	me := person{name: "alice", home: "/home/alice", ssh: dir}
	text := "Host login\nIdentityFile ~/.ssh/id_site\nIdentityFile %d/.ssh/id_two\nIdentityFile ~/keys/id\n" +
		"UserKnownHostsFile /home/alice/.ssh/known /etc/known\nInclude more\nInclude ~/.ssh/other\n"
	for name, text := range map[string]string{"config": text, "more": "Port 2222\n", "other": "User bob\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &reader{q: Query{Host: "login"}, me: me, host: "login", v: Values{"hostname": {"login"}}}
	err := r.files(t.Context())
	if err == nil {
		err = r.finish()
	}
	if err != nil {
		t.Fatal(err)
	}
	v := r.v
	if v.Int("port") != 2222 || v.Get("user") != "bob" {
		t.Errorf("includes: %v", v)
	}
	if want := []string{dir + "/known", "/etc/known"}; !slices.Equal(v["userknownhostsfile"], want) {
		t.Errorf("known hosts: %q, want %q", v["userknownhostsfile"], want)
	}
	var keys []string
	for _, k := range v["identityfile"] {
		path, err := tokens(me, r.q, v).path(k, me)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, path)
	}
	if want := []string{dir + "/id_site", dir + "/id_two", "/home/alice/keys/id"}; !slices.Equal(keys, want) {
		t.Errorf("keys: %q, want %q", keys, want)
	}
}
