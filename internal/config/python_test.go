package config

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// stricter are texts that configparser takes, and client.conf does not.
var stricter = map[string]string{
	"in capitals": "unknown section [Supercomputer]; did you mean [supercomputer]?",
	"deeper":      "[supercomputer] address is given 2 times or over several lines",
}

// laxer are those that configparser does not take: sections add up, as in sealbatch's other files.
var laxer = map[string]bool{"section twice": true}

// TestAsPython holds the reading of client.conf to what Python's configparser made of the same texts
// (testdata/generate.py), by which HPCS reads it.
func TestAsPython(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/configparser.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases map[string]struct {
		Text, Error string
		Values      map[string]map[string]string
	}
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) < 20 {
		t.Fatal(len(cases), err)
	}
	for name, c := range cases {
		got, err := LoadClient(write(t, c.Text))
		switch want := stricter[name]; {
		case want != "":
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, not %s", name, err, want)
			}
		case c.Error != "":
			if err == nil != laxer[name] {
				t.Errorf("%s: configparser says %s, and this %v", name, c.Error, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		default:
			s := c.Values["supercomputer"]
			if got.Service.URL != c.Values["hpcs-server"]["url"] || got.Supercomputer.Address != s["address"] ||
				got.Supercomputer.Username != s["username"] || got.Supercomputer.ProxyJump != s["proxy-jump"] {
				t.Errorf("%s: %+v, %+v\nconfigparser: %v", name, got.Service, got.Supercomputer, c.Values)
			}
		}
	}
}

// TestInterpolation: values that name others', as HPCS's ConfigParser takes them; in sealbatch's own files they are as they stand.
func TestInterpolation(t *testing.T) {
	t.Parallel()
	const text = "[DEFAULT]\nhost = keys\nwhere = %(host)s.example.org\n[hpcs-server]\nport = 1\nurl = https://%(where)s:%(Port)s\n" +
		"[vault]\nurl = 100%% of %(host)s\n[supercomputer]\nusername = 5%\nsetup = printf '%(host)s%%'\n"
	c, err := LoadClient(write(t, text))
	if err != nil || c.Service.URL != "https://keys.example.org:1" || c.Vault.URL != "100% of keys" ||
		c.Supercomputer.Username != "5%" || !slices.Equal(c.Supercomputer.Setup, []string{"printf '%(host)s%%'"}) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{"%(nothing)s", "%(url)s", "%(url)s%(url)s"} {
		if _, err := LoadClient(write(t, "[vault]\nurl = x\n[hpcs-server]\nurl = "+bad+"\n")); err == nil ||
			!strings.Contains(err.Error(), "names no key") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	c, err = LoadClient(write(t, "[hpcs-server]\nurl = https://k:1\n[supercomputer]\nusername = %(url)s%%\n"))
	if err != nil || c.Supercomputer.Username != "%(url)s%%" {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestUnknownInHPCS passes over what another program may want to know, but for what is nearly a key of sealbatch's:
// known-host would leave the user with the known_hosts of before, and ca-certificate with other authorities.
func TestUnknownInHPCS(t *testing.T) {
	t.Parallel()
	for extra, want := range map[string]string{
		"[supercomputer]\nssh-port = 22\n[site]\nname = csc\n": `unknown key "ssh-port" in [supercomputer]|unknown section [site]`,
		"[DEFAULT]\nsite = csc\n":                              `no section knows "site" in [DEFAULT]`,
		"[DEFAULT]\nname = csc\nusername = me\n":               `no section knows "name" in [DEFAULT]`,
	} {
		c, err := LoadClient(write(t, strings.Replace(hpcs, "[supercomputer]\n", extra+"[supercomputer]\n", 1)))
		if err != nil {
			t.Errorf("%q: %v", extra, err)
			continue
		}
		for i, w := range strings.Split(want, "|") {
			if len(c.Warnings) != strings.Count(want, "|")+1 || !strings.HasSuffix(c.Warnings[i], ": "+w+": passed over") {
				t.Errorf("%q: %q", extra, c.Warnings)
			}
		}
	}
	for _, slip := range []string{
		"[supercomputer]\nknown-host = x\n", "[supercomputer]\nknown_hosts = x\n", "[hpcs-server]\nca-certificate = x\n",
		"[hpcs-server]\ncacert = x\n", "[hpcs-server]\nca = x\n", "[trust]\nallowed-signer = x\n", "[trusts]\nallowed-signers = x\n",
		"[policy]\nnetworks = none\n", "[DEFAULT]\nca_cert = x\n",
		"[supercomputer]\nca-cert = x\n", "[hpcs-server]\nknown_hosts = x\n", "[site]\nca-cert = x\n", "[identity]\nnetwork = none\n",
		"[hpcs-server]\nca-cert =\n", "[hpcs-server]\nca-cert = \"\"\n", "[supercomputer]\nknown-hosts =\n",
	} {
		if _, err := LoadClient(write(t, hpcs+slip)); err == nil {
			t.Errorf("%q is passed over", slip)
		}
	}
	if _, err := LoadClient(write(t, hpcs+"[vault]\nca-cert = vault.pem\n")); err != nil {
		t.Errorf("the authority of HPCS's Vault: %v", err)
	}
	if _, err := LoadClient(write(t, "[hpcs-server]\nurl = https://k:1\n[spire-server]\n[vault]\n[site]\n")); err == nil {
		t.Error("a section that is unknown in a file of sealbatch's own")
	}
}

// TestHintsForHPCS are those that an HPCS user's file leads to.
func TestHintsForHPCS(t *testing.T) {
	t.Parallel()
	for change, want := range map[[2]string]string{
		{"https://hpcs-server:10080", "http://localhost:10080"}:      "docs/migrating-from-hpcs.md",
		{"https://hpcs-server:10080", "https://hpcs-server:port"}:    "port's number",
		{"https://hpcs-server:10080", "https://h:1 ; the new one"}:   "comments stand on lines of their own",
		{"username = etellier", "username = etellier ; me"}:          "comments stand on lines of their own",
		{"address = lumi.csc.fi", "address = lumi.csc.fi # Kajaani"}: "comments stand on lines of their own",
		{"username = etellier", "  username = etellier"}:             "indented deeper",
	} {
		_, err := LoadClient(write(t, strings.Replace(hpcs, change[0], change[1], 1)))
		if !strings.Contains(fault.Hint(err), want) {
			t.Errorf("%s: %v: hint %q", change[1], err, fault.Hint(err))
		}
	}
}

func FuzzClient(f *testing.F) {
	f.Add(hpcs)
	f.Add("[DEFAULT]\nx = 1\n [a]\n\tb : c\n   d\n")
	f.Fuzz(func(t *testing.T, text string) {
		file := &file{path: "/x/client.conf", data: []byte(text)}
		_ = file.apply(clientSchema(file, &Client{}))
	})
}
