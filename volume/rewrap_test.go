package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

// TestRoom: a fresh keys.age takes whole units and has spare room; stock age
// opens it.
func TestRoom(t *testing.T) {
	t.Parallel()
	x := newIdentity(t)
	var rcpts []age.Recipient
	for n := range 45 {
		rcpts = append(rcpts, newIdentity(t).Recipient())
		if n%11 != 0 {
			continue
		}
		s, b := sealBytes(t, t.TempDir(), append(rcpts, x.Recipient())...)
		size := int64(len(keysOf(t, b)))
		if padded(size)%keysUnit != 0 {
			t.Errorf("%d recipients: keys.age has %d bytes", n+2, size)
		}
		file := filepath.Join(t.TempDir(), "id")
		must(t, os.WriteFile(file, []byte(x.String()+"\n"), 0o600))
		out, err := exec.Command("age", "--decrypt", "-i", file, filepath.Join(unpack(t, b), keysName)).Output()
		if err != nil || !bytes.Contains(out, []byte(s.Key.Hex())) {
			t.Errorf("%d recipients: age: %v", n+2, err)
		}
	}
}

// TestGreaseLength: the stanza's length is computed right, for every length, so
// that keys.age can fill any number of tar blocks.
func TestGreaseLength(t *testing.T) {
	t.Parallel()
	to := []age.Recipient{newIdentity(t).Recipient()}
	size := func(zeros int) int {
		var b bytes.Buffer
		w, err := age.Encrypt(&b, greased(to, zeros)...)
		must(t, err)
		must(t, w.Close())
		return b.Len()
	}
	for zeros := range 200 {
		if got := size(zeros) - size(0); got != greaseLength(zeros) {
			t.Errorf("%d zeros take %d bytes, not %d", zeros, got, greaseLength(zeros))
		}
	}
}

// TestDamagedOrSomebodyElses: to those who can open a volume, every damage of its keys.age is one. To others it is none
// of theirs, unless the list of recipients was altered.
func TestDamagedOrSomebodyElses(t *testing.T) {
	t.Parallel()
	x, other := newIdentity(t), newIdentity(t)
	hybrid, err := age.GenerateHybridIdentity()
	must(t, err)
	for name, own := range map[string]struct {
		id age.Identity
		to []age.Recipient
	}{
		"two": {x, []age.Recipient{other.Recipient(), x.Recipient()}}, "hybrid": {hybrid, []age.Recipient{hybrid.Recipient()}},
	} {
		var b bytes.Buffer
		key, err := NewKey()
		must(t, err)
		must(t, WrapKey(&b, ID{1}, key, own.to...))
		if _, _, err := ReadKey(bytes.NewReader(b.Bytes()), newIdentity(t)); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%s: a third one: %v", name, err)
		}
		grease := bytes.Index(b.Bytes(), []byte(greaseType))
		each(b.Len(), func(i int) {
			bad := bytes.Clone(b.Bytes())
			bad[i] ^= 1 << (i % 7)
			if _, _, err := ReadKey(bytes.NewReader(bad), own.id); !errors.Is(err, ErrIntegrity) || errors.Is(err, ErrNoIdentity) {
				t.Errorf("%s: byte %d of %q: %v", name, i, bad[max(0, i-9):i+1], err)
			}
			if _, _, err := ReadKey(bytes.NewReader(bad), newIdentity(t)); i < grease && !errors.Is(err, ErrIntegrity) {
				t.Errorf("%s: byte %d: a third one: %v", name, i, err)
			}
		})
	}
}

func TestRewrap(t *testing.T) {
	t.Parallel()
	old, fresh, ssh := newIdentity(t), newIdentity(t), rsaIdentity(t, 3072)
	tree := oddTree(t)
	path := filepath.Join(t.TempDir(), "v.sealed")
	s, err := SealFile(context.Background(), path, DirSource(tree), SealOptions{Recipients: []age.Recipient{old.Recipient()}})
	must(t, err)
	must(t, os.Chmod(path, 0o640))
	before, err := os.ReadFile(path)
	must(t, err)
	rsaRcpt, err := ParseRecipients([]string{ssh.public})
	must(t, err)
	id, digest, err := Rewrap(context.Background(), path, []age.Identity{old}, append(rsaRcpt, fresh.Recipient()))
	if err != nil || id != s.ID || digest != s.Digest {
		t.Fatalf("%v %v %v", id, digest, err)
	}
	after, err := os.ReadFile(path)
	must(t, err)
	head := tarBlock + int(padded(int64(len(keysOf(t, before)))))
	if len(after) != len(before) || !bytes.Equal(after[head:], before[head:]) || bytes.Equal(after, before) {
		t.Error("rewrapping altered more than keys.age, or nothing")
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	sshIDs, err := ParseIdentityFile(ssh.file, nil, nil)
	must(t, err)
	for _, ids := range [][]age.Identity{{fresh}, sshIDs} {
		key, err := UnwrapKey(bytes.NewReader(after), int64(len(after)), ids...)
		if err != nil || !key.Equal(s.Key) {
			t.Errorf("a new recipient: %v", err)
		}
	}
	if _, err := UnwrapKey(bytes.NewReader(after), int64(len(after)), old); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("the old recipient: %v", err)
	}
	out := filepath.Join(t.TempDir(), "out")
	must(t, openBytes(t, after, s.Key).Extract(context.Background(), out, ExtractOptions{}))
	compareTrees(t, tree, out, true)
	unpack(t, after) // still a tar file
}

// TestRewrapRefuses: whatever fails, the volume is as it was and nothing lies
// beside it.
func TestRewrapRefuses(t *testing.T) {
	t.Parallel()
	x := newIdentity(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "v.sealed")
	_, b := sealBytes(t, t.TempDir(), x.Recipient())
	var many []age.Recipient
	for range 50 {
		many = append(many, newIdentity(t).Recipient())
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	bg := context.Background()
	for name, c := range map[string]struct {
		ctx   context.Context
		b     []byte
		id    age.Identity
		rcpts []age.Recipient
		want  error
	}{
		"too many":        {bg, b, x, many, ErrRoom},
		"nobody":          {bg, b, x, nil, ErrIdentity},
		"a stranger":      {bg, b, newIdentity(t), many[:1], ErrNoIdentity},
		"cancelled":       {cancelled, b, x, many[:1], context.Canceled},
		"cut":             {bg, b[:len(b)-tarBlock], x, many[:1], ErrFooter},
		"a damaged index": {bg, flipped(b, len(b)-footerFromEnd-tarBlock-400), x, many[:1], ErrIndex},
	} {
		must(t, os.WriteFile(path, c.b, 0o600))
		if _, _, err := Rewrap(c.ctx, path, []age.Identity{c.id}, c.rcpts); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		got, err := os.ReadFile(path)
		names, derr := os.ReadDir(dir)
		if err != nil || derr != nil || !bytes.Equal(got, c.b) || len(names) != 1 {
			t.Errorf("%s: the volume was altered, or something left beside it", name)
		}
	}
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

type rsaKey struct{ file, public string }

func rsaIdentity(t *testing.T, bits int) rsaKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	must(t, err)
	file := filepath.Join(t.TempDir(), "id_rsa")
	must(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	pub, err := ssh.NewPublicKey(&key.PublicKey)
	must(t, err)
	return rsaKey{file, string(ssh.MarshalAuthorizedKey(pub))}
}

func TestShortRSA(t *testing.T) {
	t.Parallel()
	if _, err := ParseRecipients([]string{rsaIdentity(t, 2048).public}); err != nil {
		t.Errorf("a key of 2048 bits: %v", err)
	}
	if _, err := ParseRecipients([]string{rsaIdentity(t, 1536).public}); !errors.Is(err, ErrIdentity) {
		t.Errorf("a key of 1536 bits: %v", err)
	}
}
