package ui

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/internal/text"
)

type stringValue string

func (v *stringValue) String() string { return string(*v) }
func (v *stringValue) Set(s string) error {
	*v = stringValue(s)
	return nil
}

type wordValue string

func (v *wordValue) String() string { return string(*v) }
func (v *wordValue) Set(s string) error {
	if s = shellwords.Unquote(s); s == "" {
		return errors.New("is empty")
	}
	*v = wordValue(s)
	return nil
}

type boolValue bool

func (v *boolValue) String() string   { return strconv.FormatBool(bool(*v)) }
func (v *boolValue) IsBoolFlag() bool { return true }
func (v *boolValue) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("is neither true nor false")
	}
	*v = boolValue(b)
	return nil
}

type intValue struct {
	dst *int
	low int
}

func (v *intValue) String() string {
	if v.dst == nil {
		return ""
	}
	return strconv.Itoa(*v.dst)
}

func (v *intValue) Set(s string) error {
	n, err := strconv.Atoi(shellwords.Unquote(s))
	if err != nil || n < v.low {
		return fmt.Errorf("is not a whole number from %d on", v.low)
	}
	*v.dst = n
	return nil
}

// sizeValue is a number of bytes; 0 shows no default.
type sizeValue struct{ dst *int64 }

func (v sizeValue) String() string {
	if v.dst == nil || *v.dst == 0 {
		return ""
	}
	return strconv.FormatInt(*v.dst, 10)
}

func (v sizeValue) Set(s string) error {
	n, err := text.ParseSize(shellwords.Unquote(s))
	if err != nil {
		return errors.New("is not a size such as 512M, 4G or 1000000 (bytes)")
	}
	*v.dst = n
	return nil
}

type listValue struct {
	dst    *[]string
	commas bool
}

func (v *listValue) String() string {
	if v.dst == nil {
		return ""
	}
	return strings.Join(*v.dst, ",")
}

func (v *listValue) Set(s string) error {
	if !v.commas {
		*v.dst = append(*v.dst, s)
		return nil
	}
	for _, item := range splitCommas(shellwords.Unquote(s)) {
		if item = strings.TrimSpace(item); item == "" {
			return errors.New("has an empty item")
		}
		*v.dst = append(*v.dst, item)
	}
	return nil
}

// splitCommas splits at commas outside [brackets], so that a host list such as cn[1,3],x stays whole.
func splitCommas(s string) []string {
	var out []string
	depth, start := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '[':
			depth++
		case ']':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, s[start:i])
				start = i + 1
			}
		}
	}
	return append(out, s[start:])
}
