package sshid

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINNwMHM8lLcve+HMdKmjaanRnkdOE0Sm3ZUxkjv5LTgg"

func TestParseAllowedSigners(t *testing.T) {
	t.Parallel()
	text := strings.Join([]string{
		"# people",
		"",
		"alice@example.org " + testKey + " alice's laptop",
		"  *@example.org,!eve@example.org\tcert-authority,namespaces=\"sealbatch-*,git\" " + testKey + "\r",
		`"bob,carl" Valid-After="20260101Z",VALID-BEFORE="202602011530Z" ` + testKey,
		`dora valid-before="20260201153059" ` + testKey,
	}, "\n")
	got, err := ParseAllowedSigners(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 4 {
		t.Fatalf("%d lines, want 4", len(got))
	}
	if !slices.Equal(got[0].Principals, []string{"alice@example.org"}) || got[0].CertAuthority || got[0].Namespaces != nil {
		t.Errorf("plain line: %+v", got[0])
	}
	if g := got[1]; !g.CertAuthority || !slices.Equal(g.Namespaces, []string{"sealbatch-*", "git"}) ||
		!slices.Equal(g.Principals, []string{"*@example.org", "!eve@example.org"}) {
		t.Errorf("options: %+v", g)
	}
	if !got[1].Matches("al@example.org") || got[1].Matches("eve@example.org") || got[1].Matches("al@example.com") {
		t.Error("principal patterns")
	}
	if g := got[2]; !slices.Equal(g.Principals, []string{"bob", "carl"}) ||
		!g.ValidAfter.Equal(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) ||
		!g.ValidBefore.Equal(time.Date(2026, 2, 1, 15, 30, 0, 0, time.UTC)) {
		t.Errorf("times: %+v", g)
	}
	if g := got[3]; !g.ValidBefore.Equal(time.Date(2026, 2, 1, 15, 30, 59, 0, time.Local)) {
		t.Errorf("local time: %+v", g)
	}
}

func TestParseAllowedSignersRefuses(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"no key":               "alice",
		"options, no key":      "alice cert-authority",
		"broken base64":        "alice ssh-ed25519 AAAA!",
		"cut key":              "alice " + testKey[:60],
		"type does not match":  "alice ecdsa-sha2-nistp256 " + testKey[len("ssh-ed25519 "):],
		"empty principal":      "alice,,bob " + testKey,
		"empty negation":       "alice,! " + testKey,
		"unknown option":       "alice restrict " + testKey,
		"repeated option":      "alice cert-authority,cert-authority " + testKey,
		"flag with a value":    `alice cert-authority="yes" ` + testKey,
		"value missing":        "alice namespaces " + testKey,
		"value not quoted":     "alice namespaces=git " + testKey,
		"open quote":           `alice namespaces="git ` + testKey,
		"text after a value":   `alice namespaces="git"x ` + testKey,
		"trailing comma":       "alice cert-authority, " + testKey,
		"impossible date":      `alice valid-after="20261301" ` + testKey,
		"short date":           `alice valid-after="202613" ` + testKey,
		"before precedes":      `alice valid-before="20250101Z",valid-after="20260101Z" ` + testKey,
		"control character":    "al\x07ice " + testKey,
		"invalid UTF-8":        "al\xffice " + testKey,
		"too many principals":  strings.Repeat("a,", maxPatterns) + "a " + testKey,
		"authorized_keys line": testKey + " alice",
	} {
		_, err := ParseAllowedSigners(strings.NewReader("# first\n" + line + "\n"))
		if err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: got %v, want an error for line 2", name, err)
		}
	}
	big := strings.NewReader(strings.Repeat("#", maxAllowedSigners+1))
	if _, err := ParseAllowedSigners(big); err == nil {
		t.Error("a file over the bound passed")
	}
}

// TestAllowedAgainstSSHKeygen asks ssh-keygen the same questions.
func TestAllowedAgainstSSHKeygen(t *testing.T) {
	t.Parallel()
	signer := newEd25519(t)
	sig, err := SignSSH(signer, testNamespace, message)
	if err != nil {
		t.Fatal(err)
	}
	sigFile := write(t, sig)
	key := authorizedLine(signer.PublicKey())
	for _, line := range []string{
		"alice " + key,
		"al*,!bob " + key,
		"alice,!al* " + key,
		`alice namespaces="sealbatch-*" ` + key,
		`alice namespaces="git,sealbatch-t?st" ` + key,
		`alice namespaces="git" ` + key,
		`alice namespaces="*,!sealbatch-test" ` + key,
		`alice valid-after="20200101Z",valid-before="21000101Z" ` + key,
		`alice valid-before="20200101Z" ` + key,
		`alice valid-after="21000101Z" ` + key,
		"alice cert-authority " + key,
		"bob " + key,
	} {
		a, err := ParseAllowedSigners(strings.NewReader(line))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		ours := a[0].Matches("alice") && a[0].Allows(testNamespace, time.Now()) && !a[0].CertAuthority
		theirs := succeeds(message, "ssh-keygen", "-Y", "verify", "-f", write(t, []byte(line+"\n")),
			"-I", "alice", "-n", testNamespace, "-s", sigFile)
		if ours != theirs {
			t.Errorf("%s: we say %v, ssh-keygen says %v", line, ours, theirs)
		}
	}
}

func FuzzParseAllowedSigners(f *testing.F) {
	f.Add("alice " + testKey)
	f.Add(`"a,b" cert-authority,namespaces="x\"y",valid-after="20260101Z" ` + testKey + "\n#\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseAllowedSigners(strings.NewReader(text))
		// Beside an error are the lines that parse by themselves.
		alone := 0
		for line := range strings.Lines(text) {
			if a, err := ParseAllowedSigners(strings.NewReader(line)); err == nil {
				alone += len(a)
			}
		}
		if len(got) != alone {
			t.Fatalf("%d lines of %q, %d alone", len(got), text, alone)
		}
		if err != nil {
			return
		}
		// What parses says the same when written out plainly.
		for _, a := range got {
			line := fmt.Sprintf("\"%s\" %s", strings.Join(a.Principals, ","), authorizedLine(a.Key))
			again, err := ParseAllowedSigners(strings.NewReader(line))
			if strings.Contains(line[:len(line)-len(authorizedLine(a.Key))], `\`) || strings.Count(line, `"`) != 2 {
				continue // names with quotes have no plain form
			}
			if err != nil || len(again) != 1 || !slices.Equal(again[0].Principals, a.Principals) || !sameKey(again[0].Key, a.Key) {
				t.Fatalf("%q does not survive: %v", line, err)
			}
		}
	})
}
