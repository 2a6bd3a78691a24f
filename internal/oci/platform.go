package oci

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// DefaultPlatform is what compute nodes are, where nobody says otherwise.
const DefaultPlatform = "linux/amd64"

// machines are the names that uname(1) has for what Go, and with it every image, calls
// otherwise.
var machines = map[string]string{
	"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm", "i386": "386", "i686": "386",
}

var platformRE = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

// ParsePlatform reads OS/ARCHITECTURE[/VARIANT], or the architecture alone: "arm64" is
// linux/arm64. "" is DefaultPlatform. An image for something else than Linux is
// ErrPlatform.
func ParsePlatform(s string) (v1.Platform, error) {
	if s == "" {
		s = DefaultPlatform
	}
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) == 1 {
		parts = []string{"linux", parts[0]}
	}
	bad := len(parts) > 3 || slices.ContainsFunc(parts, func(p string) bool { return !platformRE.MatchString(p) })
	switch {
	case bad:
		return v1.Platform{}, fault.New(fault.Usage, fmt.Errorf("%q is no platform", s), "write it as linux/amd64 or linux/arm64")
	case parts[0] != "linux":
		err := fmt.Errorf("%w: it is for %s, and the nodes of a cluster run Linux", ErrPlatform, parts[0])
		return v1.Platform{}, fault.New(fault.Usage, err, "")
	}
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if goes, ok := machines[p.Architecture]; ok {
		p.Architecture = goes
	}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// baseVariants are what an architecture without a variant means.
var baseVariants = map[string]int{"amd64": 1, "arm64": 8, "arm": 7}

// variant returns a variant's number, 0 if it has none: v8 is 8.
func variant(p v1.Platform) int {
	if p.Variant == "" {
		return baseVariants[p.Architecture]
	}
	n, err := strconv.Atoi(strings.TrimPrefix(p.Variant, "v"))
	if err != nil || n < 0 || n > 999 {
		return 0
	}
	return n
}

// rank says how well have does for want: 0 not at all, else the more the better. A
// processor runs what was made for earlier variants of it, not for later ones.
func rank(want, have v1.Platform) int {
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return 0
	}
	w, h := variant(want), variant(have)
	switch {
	case want.Variant == have.Variant || w == h:
		return 1000
	case h == 0 || h > w:
		return 0
	}
	return h
}

// bestOf returns the first of those of list that fit best, or nil.
func bestOf(want v1.Platform, list []v1.Descriptor) *v1.Descriptor {
	var best *v1.Descriptor
	top := 0
	for i := range list {
		if n := rank(want, *list[i].Platform); n > top {
			best, top = &list[i], n
		}
	}
	return best
}

// platformString is p without what Windows adds to it.
func platformString(p v1.Platform) string {
	return v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}.String()
}

// PlatformOf returns what a config says of its platform. What it leaves out, as some
// old ones do, is taken to be what is wanted.
func PlatformOf(c *v1.ConfigFile, want v1.Platform) string {
	p := v1.Platform{OS: strings.ToLower(c.OS), Architecture: strings.ToLower(c.Architecture), Variant: strings.ToLower(c.Variant)}
	if goes, ok := machines[p.Architecture]; ok {
		p.Architecture = goes
	}
	if p.OS == "" {
		p.OS = want.OS
	}
	if p.Architecture == "" {
		p.Architecture, p.Variant = want.Architecture, want.Variant
	}
	return platformString(p)
}

// CheckPlatform reports as ErrPlatform that an image of platform have is not what want,
// "" being DefaultPlatform, asks for.
func CheckPlatform(want, have string) error {
	w, err := ParsePlatform(want)
	if err != nil {
		return err
	}
	h, err := ParsePlatform(have)
	if err != nil {
		return err
	}
	if rank(w, h) == 0 {
		return noPlatform(w, []string{have})
	}
	return nil
}

// noPlatform is ErrPlatform, with what there is.
func noPlatform(want v1.Platform, have []string) error {
	have = slices.DeleteFunc(have, func(s string) bool { return s == "" })
	slices.Sort(have)
	have = slices.Compact(have)
	if len(have) == 0 {
		return fault.New(fault.Usage, fmt.Errorf("%w: there is no image in it at all", ErrFormat), "")
	}
	shown := strings.Join(have[:min(len(have), 12)], ", ")
	hint := ""
	if i := slices.IndexFunc(have, func(s string) bool { return strings.HasPrefix(s, "linux/") }); i >= 0 {
		hint = "--platform " + have[i] + " takes that one: it runs on such nodes only"
	}
	return fault.New(fault.Usage, fmt.Errorf("%w: there is none for %s, only for %s", ErrPlatform, platformString(want), shown), hint)
}
