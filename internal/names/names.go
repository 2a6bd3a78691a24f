// Package names says once what the names of a site's things may look like. They
// are accepted as they are or not at all: they become names of files and
// directories, words of command lines and parts of what is signed.
package names

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	nodeRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$`)
	wordRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,127}$`)
	idRE   = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// Node reports whether s can be the name of one node, as Slurm's NodeName.
func Node(s string) bool { return nodeRE.MatchString(s) }

// Word reports whether s can be the name of a cluster, a Slurm account or a
// partition.
func Word(s string) bool { return wordRE.MatchString(s) }

// maxUnix is how long the name of a user or group can be, in bytes: Linux's LOGIN_NAME_MAX.
const maxUnix = 255

// unixSigns are what a name of a user or group may have beside letters and digits. What separates (in lists,
// paths and the user database), steers a terminal or begins an option is not among them.
const unixSigns = "_.@+-\\ &'()#"

// Unix reports whether s can be the name of a Unix user or group, as sites have them: alice, project_1,
// DOM\alice, alice@dom.example, "domain users", host$, 10012345. A name of digits is a name, never a number
// of a user.
func Unix(s string) bool {
	body := strings.TrimSuffix(s, "$")
	if body == "" || len(s) > maxUnix || !utf8.ValidString(s) {
		return false
	}
	for i, r := range body {
		letter := unicode.In(r, unicode.Letter, unicode.Digit) || r == '_'
		if !letter && (i == 0 || !unicode.Is(unicode.Mark, r) && !strings.ContainsRune(unixSigns, r)) {
			return false
		}
	}
	return !strings.HasSuffix(body, " ") && !strings.HasSuffix(body, "\\")
}

// ID reports whether s is 32 hex digits: the id of a volume or of a submission.
func ID(s string) bool { return idRE.MatchString(s) }
