package transfer

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/sshconfig"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// maxKnownHosts bounds a known_hosts file, in bytes.
const maxKnownHosts = 64 << 20

// knownKey is a line of a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).
type knownKey struct {
	marker string // "", "cert-authority" or "revoked"
	key    ssh.PublicKey
	file   string
	line   int
	bare   bool // it names the host without its port
}

// at returns FILE:LINE.
func (k knownKey) at() string { return fmt.Sprintf("%s:%d", k.file, k.line) }

// knownKeys reads the lines about a host, HOST:PORT. Lines that cannot be read are passed over, as ssh
// does, and so are files: bad names them.
func knownKeys(files []string, address string) (keys []knownKey, bad []string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, nil, fail(Error{Kind: ErrConfig, What: fmt.Sprintf("%q is not a host", address), Err: err})
	}
	name := strings.ToLower(host)
	full := name
	if port != "22" {
		full = "[" + name + "]:" + port
	}
	for _, file := range files {
		data, err := readKnownHosts(file)
		switch {
		case errors.Is(err, trusted.ErrUnsafe):
			return nil, nil, fail(Error{Kind: ErrConfig, What: "known_hosts", Err: err, Next: fault.Hint(err)})
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil: // as ssh does
			bad = append(bad, file)
			continue
		}
		for n, line := range bytes.Split(data, []byte("\n")) {
			k := knownKey{file: file, line: n + 1}
			switch found, err := k.parse(line, full, name); {
			case err != nil:
				bad = append(bad, k.at())
			case found:
				keys = append(keys, k)
			}
		}
	}
	return keys, bad, nil
}

// readKnownHosts reads a file, of which os.DevNull is an empty one.
func readKnownHosts(file string) ([]byte, error) {
	if file == os.DevNull {
		return nil, nil
	}
	return trusted.ReadFile(file, maxKnownHosts)
}

// parse reads a line, and reports whether it is about the host: by its full name or, as ssh looks, by its
// name without the port.
func (k *knownKey) parse(line []byte, full, name string) (bool, error) {
	if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
		return false, nil
	}
	hosts := line
	if line[0] == '@' {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			return false, errLine
		}
		hosts = fields[1]
	}
	end := bytes.IndexAny(hosts, " \t")
	if end < 0 {
		end = len(hosts)
	}
	patterns := string(hosts[:end])
	if !namesHost(patterns, full) {
		k.bare = true
		if full == name || !namesHost(patterns, name) {
			return false, nil // whatever else is on it
		}
	}
	marker, _, key, _, _, err := ssh.ParseKnownHosts(line)
	if err != nil || marker != "" && marker != "cert-authority" && marker != "revoked" {
		return false, errLine
	}
	k.marker, k.key = marker, key
	return true, nil
}

var errLine = errors.New("not a line of known_hosts")

// namesHost reports whether the first field of a line is about a host: patterns, or one hashed name.
func namesHost(field, host string) bool {
	if hashed, ok := strings.CutPrefix(field, "|1|"); ok {
		salt, sum, ok := strings.Cut(hashed, "|")
		key, err := base64.StdEncoding.DecodeString(salt)
		want, sumErr := base64.StdEncoding.DecodeString(sum)
		if !ok || err != nil || sumErr != nil {
			return false
		}
		mac := hmac.New(sha1.New, key)
		mac.Write([]byte(host))
		return hmac.Equal(mac.Sum(nil), want)
	}
	return sshconfig.MatchList(strings.Split(strings.ToLower(field), ","), host)
}
