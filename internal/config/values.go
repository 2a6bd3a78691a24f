package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

func stringKey(name string, dst *string) key {
	return key{name: name, set: func(v []string) error {
		*dst = v[0]
		return nil
	}}
}

// wordKey takes a value without spaces.
func wordKey(name string, dst *string) key {
	return key{name: name, set: func(v []string) error {
		*dst = v[0]
		return oneWord(v[0])
	}}
}

func oneWord(s string) error {
	if strings.ContainsAny(s, " \t") {
		return fmt.Errorf("%q has spaces in it", s)
	}
	return nil
}

// otherKey returns a key whose value means nothing here.
func otherKey(name string, dst map[string]string) key {
	return key{name: name, set: func(v []string) error {
		lower := strings.ToLower(name)
		if _, ok := dst[lower]; ok {
			return errors.New("is given twice, in small letters and in large ones")
		}
		dst[lower] = v[0]
		return nil
	}}
}

func linesKey(name string, dst *[]string) key {
	return key{name: name, repeated: true, set: func(v []string) error {
		*dst = v
		return nil
	}}
}

func (f *file) pathKey(name string, dst *string) key {
	return key{name: name, set: func(v []string) (err error) {
		*dst, err = f.resolve(v[0])
		return err
	}}
}

func (f *file) pathsKey(name string, dst *[]string) key {
	return key{name: name, repeated: true, set: func(v []string) error {
		*dst = nil
		for _, p := range v {
			abs, err := f.resolve(p)
			if err != nil {
				return err
			}
			*dst = append(*dst, abs)
		}
		return nil
	}}
}

func intKey(name string, dst *int, low, high int) key {
	return key{name: name, set: func(v []string) error {
		n, err := strconv.Atoi(v[0])
		if err != nil || n < low || n > high {
			return fmt.Errorf("%q is not a whole number from %d to %d", v[0], low, high)
		}
		*dst = n
		return nil
	}}
}

func boolKey(name string, dst *bool) key {
	return key{name: name, set: func(v []string) error {
		switch strings.ToLower(v[0]) {
		case "yes", "true", "on", "1":
			*dst = true
		case "no", "false", "off", "0":
			*dst = false
		default:
			return fmt.Errorf("%q is neither yes nor no", v[0])
		}
		return nil
	}}
}

// secondsKey takes seconds ("300"), or a number with a unit ("5m").
func secondsKey(name string, dst *time.Duration) key {
	return key{name: name, set: func(v []string) (err error) {
		*dst, err = text.ParseSeconds(v[0])
		return err
	}}
}

// httpsKey takes the base address of a TLS service, without a trailing slash.
func httpsKey(name string, dst *string) key {
	return key{name: name, set: func(v []string) error {
		u, err := url.Parse(v[0])
		switch {
		case err != nil:
			var why *url.Error
			if errors.As(err, &why) {
				err = why.Err // it would quote the address once more
			}
			return fault.WithHint(fmt.Errorf("%q is not a URL: %w", v[0], err), placeholder(v[0]))
		case u.Scheme == "http":
			return fault.WithHint(fmt.Errorf("%q does not begin with https://; keys travel over TLS only", v[0]), hintHTTP)
		case u.Scheme != "https":
			return fmt.Errorf("%q does not begin with https://; keys travel over TLS only", v[0])
		case u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			return fmt.Errorf("%q should be https://HOST:PORT and nothing more", v[0])
		}
		*dst = strings.TrimRight(v[0], "/")
		return nil
	}}
}

// hintHTTP is for those who name an HPCS server: it speaks no TLS, nor what clients and nodes here speak.
const hintHTTP = "an HPCS server keeps no keys for sealbatch: name a sealbatch key service, https://HOST:8443 " +
	"(docs/migrating-from-hpcs.md)"

// placeholder returns what to do about an address as HPCS's README has it.
func placeholder(url string) string {
	if strings.HasSuffix(url, ":port") || strings.HasSuffix(url, ":PORT") {
		return "that is the example of HPCS's README: write the key service's address, with the port's number in place of the word"
	}
	return ""
}

// listenKey takes an address to listen on: HOST:PORT or :PORT.
func listenKey(name string, dst *string) key {
	return key{name: name, set: func(v []string) error {
		_, port, err := net.SplitHostPort(v[0])
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
			return fmt.Errorf("%q is not HOST:PORT", v[0])
		}
		*dst = v[0]
		return nil
	}}
}

func oneOfKey(name string, dst *string, allowed ...string) key {
	return key{name: name, set: func(v []string) error {
		for _, a := range allowed {
			if v[0] == a {
				*dst = a
				return nil
			}
		}
		return fmt.Errorf("%q is none of %s", v[0], strings.Join(allowed, ", "))
	}}
}

// suggest renders format with the known word nearest to got, or nothing if none is near.
func suggest(format, got string, known []string) string {
	best, bestDistance := "", 1+max(2, len(got)/3)
	for _, k := range known {
		if d := distance(strings.ToLower(got), k); d < bestDistance || (d == bestDistance && best != "" && k < best) {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(format, best)
}

// distance returns Levenshtein's: how many letters to insert, drop or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
