package transfer

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/sshconfig"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// resolveRevoked finds the files of RevokedHostKeys.
func (t *target) resolveRevoked(q sshconfig.Query, v sshconfig.Values) error {
	for _, name := range v["revokedhostkeys"] {
		path, err := sshconfig.Expand(name, q, v)
		if err != nil {
			return err
		}
		t.revoked = append(t.revoked, path)
	}
	return nil
}

// krlMagic begins a key revocation list (OpenSSH's PROTOCOL.krl).
const krlMagic = "SSHKRL\n\x00"

var errKRL = errors.New("it is a key revocation list (KRL), which sealbatch does not read")

// revokedKeys reads lists of keys, one a line as in a .pub file: a list that cannot be read, or has a line that is not
// understood, may revoke any key, so it is an error, as for ssh.
func revokedKeys(files []string) (out []knownKey, err error) {
	for _, file := range files {
		keys, err := revokedFile(file)
		if err != nil {
			next := "list the keys in it one a line, as *.pub has them, or mark them @revoked in known_hosts and " +
				"set `RevokedHostKeys none` for this host in ssh_config"
			switch {
			case errors.Is(err, trusted.ErrUnsafe):
				next = fault.Hint(err)
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
				next = "put the list there, or correct RevokedHostKeys in ssh_config"
			}
			return nil, configError("the list of RevokedHostKeys "+file+" cannot be used", err, next)
		}
		out = append(out, keys...)
	}
	return out, nil
}

func revokedFile(file string) (out []knownKey, err error) {
	data, err := readKnownHosts(file)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte(krlMagic)) {
		return nil, errKRL
	}
	for n, line := range bytes.Split(data, []byte("\n")) {
		fields := bytes.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		key, err := publicKey(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d is not a public key", n+1)
		}
		out = append(out, knownKey{key: plain(key), file: file, line: n + 1})
	}
	return out, nil
}

// publicKey reads TYPE BASE64 [COMMENT].
func publicKey(fields [][]byte) (ssh.PublicKey, error) {
	if len(fields) < 2 {
		return nil, errLine
	}
	blob, err := base64.StdEncoding.DecodeString(string(fields[1]))
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, err
	}
	if key.Type() != string(fields[0]) {
		return nil, errLine
	}
	return key, nil
}

// plain returns a certificate's key, and another key as it is.
func plain(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}
