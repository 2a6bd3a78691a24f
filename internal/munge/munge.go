// Package munge makes and checks MUNGE credentials through the site's commands
// munge and unmunge.
package munge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/sitecmd"
)

// TTL is the life of a credential. The verifier accepts no longer one.
const TTL = 60 * time.Second

const (
	maxPayload    = 4 << 10
	maxCredential = 16 << 10
)

// ErrRefused says that MUNGE refused a credential: damaged, expired, replayed
// on this host, or meant for another user.
var ErrRefused = errors.New("MUNGE credential refused")

// Commands say how MUNGE's commands are reached. The zero value looks in the
// usual directories and uses munged's usual socket.
type Commands struct {
	MungePath, UnmungePath string // absolute
	Socket                 string // munged's; empty for the default
}

// Encode returns a credential over payload that only restrictUser (a name or
// a number) can decode, within TTL.
func (m Commands) Encode(ctx context.Context, restrictUser string, payload []byte) (string, error) {
	if restrictUser == "" {
		return "", fmt.Errorf("%w: no user to restrict the credential to", sitecmd.ErrFailed)
	}
	out, err := sitecmd.Command{
		Path: m.MungePath, Name: "munge", Stdin: payload, MaxOutput: maxCredential,
		Args: m.withSocket("--restrict-uid="+restrictUser, "--ttl="+strconv.Itoa(int(TTL/time.Second))),
	}.Run(ctx)
	if err != nil {
		return "", fmt.Errorf("make a MUNGE credential for user %.80q: %w", restrictUser, err)
	}
	cred := strings.TrimSpace(string(out))
	return cred, validCredential(cred)
}

// Credential is what a credential says once MUNGE has vouched for it.
type Credential struct {
	Payload          []byte
	UID, GID         uint32     // of the process that made it
	Host             netip.Addr // of its munged, IPv4
	TTL              time.Duration
	Encoded, Decoded time.Time // by either host's clock, whole seconds
	RestrictUID      int64     // who may decode it; -1 is anyone
}

// Decode has MUNGE check a credential. The result only counts without an
// error: unmunge prints the payload of a replayed credential, too. Errors
// wrap ErrRefused for a refused credential, else sitecmd.ErrFailed.
func (m Commands) Decode(ctx context.Context, credential string) (Credential, error) {
	if err := validCredential(credential); err != nil {
		return Credential{}, err
	}
	out, err := sitecmd.Command{
		Path: m.UnmungePath, Name: "unmunge", Stdin: []byte(credential), MaxOutput: maxPayload + maxCredential,
		Args: m.withSocket("--numeric", "--keys="+strings.Join(mungeKeys, ",")),
	}.Run(ctx)
	var exit *exec.ExitError
	// munge_err_t: up to 7 (EMUNGE_TIMEOUT) the fault is MUNGE's or ours,
	// beyond it the credential's.
	if errors.As(err, &exit) && exit.ExitCode() > 7 {
		code := exit.ExitCode()
		return Credential{}, fmt.Errorf("%w: %s (MUNGE status %d)", ErrRefused, cmp.Or(mungeReasons[code], "not valid"), code)
	}
	if err != nil {
		return Credential{}, fmt.Errorf("decode a MUNGE credential: %w", err)
	}
	d, err := parseCredential(string(out))
	if err != nil {
		return Credential{}, fmt.Errorf("%w: output of unmunge: %v", sitecmd.ErrFailed, err)
	}
	return d, nil
}

// mungeReasons names the statuses that people meet (munge.h, munge_err_t).
var mungeReasons = map[int]string{
	14: "damaged, or of another realm's key",
	15: "expired, or the hosts' clocks differ",
	16: "made in the future, or the hosts' clocks differ",
	17: "used before",
	18: "made for another user",
}

func (m Commands) withSocket(args ...string) []string {
	if m.Socket != "" {
		args = append(args, "--socket="+m.Socket)
	}
	return args
}

var credentialRE = regexp.MustCompile(`^MUNGE:[A-Za-z0-9+/]+={0,2}:$`)

func validCredential(s string) error {
	if len(s) > maxCredential || !credentialRE.MatchString(s) {
		return fmt.Errorf("%w: not a credential", ErrRefused)
	}
	return nil
}

// mungeKeys are asked for and printed in this order (unmunge --list-keys);
// UID_RESTRICTION is left out where there is none.
var mungeKeys = []string{"STATUS", "ENCODE_HOST", "ENCODE_TIME", "DECODE_TIME", "TTL", "UID", "GID", "UID_RESTRICTION", "LENGTH"}

// parseCredential reads "KEY: value" lines up to the first empty one, and the
// payload, which is exactly LENGTH bytes. Nothing of the payload is ever read
// as a line.
func parseCredential(s string) (Credential, error) {
	head, payload, ok := strings.Cut(s, "\n\n")
	if !ok {
		return Credential{}, errors.New("no end of the header")
	}
	values := map[string]string{}
	next := 0
	for line := range strings.SplitSeq(head, "\n") {
		key, value, _ := strings.Cut(line, ":")
		if next < len(mungeKeys) && mungeKeys[next] == "UID_RESTRICTION" && key != "UID_RESTRICTION" {
			next++
		}
		if next == len(mungeKeys) || key != mungeKeys[next] {
			return Credential{}, fmt.Errorf("line %.60q is not expected", line)
		}
		next++
		values[key] = strings.Trim(value, " ")
	}
	if next != len(mungeKeys) || values["STATUS"] != "0" {
		return Credential{}, errors.New("header is cut, or its status is not 0")
	}
	return credentialFrom(values, payload)
}

func credentialFrom(values map[string]string, payload string) (Credential, error) {
	numbers := map[string]int64{"UID_RESTRICTION": -1}
	for _, k := range mungeKeys {
		if v, ok := values[k]; ok && k != "ENCODE_HOST" {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				return Credential{}, fmt.Errorf("%s is %.40q", k, v)
			}
			numbers[k] = int64(n)
		}
	}
	host, err := netip.ParseAddr(values["ENCODE_HOST"])
	if err != nil || !host.Is4() {
		return Credential{}, fmt.Errorf("ENCODE_HOST is %.60q", values["ENCODE_HOST"])
	}
	if int64(len(payload)) != numbers["LENGTH"] || len(payload) > maxPayload {
		return Credential{}, fmt.Errorf("payload of %d bytes where %d are said", len(payload), numbers["LENGTH"])
	}
	return Credential{
		Payload: []byte(payload), UID: uint32(numbers["UID"]), GID: uint32(numbers["GID"]), Host: host,
		TTL:     time.Duration(numbers["TTL"]) * time.Second,
		Encoded: time.Unix(numbers["ENCODE_TIME"], 0), Decoded: time.Unix(numbers["DECODE_TIME"], 0),
		RestrictUID: numbers["UID_RESTRICTION"],
	}, nil
}
