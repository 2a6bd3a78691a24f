// Package names says once what the names of a site's things may look like. They
// are accepted as they are or not at all: they become names of files and
// directories, words of command lines and parts of what is signed.
package names

import "regexp"

var (
	nodeRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$`)
	wordRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	// As HPCS accepts them (ship_a_key.py), with upper case, dots and a domain
	// part allowed beside: sites use them.
	unixRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.@-]{0,62}\$?$`)
	idRE   = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// Node reports whether s can be the name of one node, as Slurm's NodeName.
func Node(s string) bool { return nodeRE.MatchString(s) }

// Word reports whether s can be the name of a cluster, a Slurm account or a
// partition.
func Word(s string) bool { return wordRE.MatchString(s) }

// Unix reports whether s can be the name of a Unix user or group.
func Unix(s string) bool { return unixRE.MatchString(s) }

// ID reports whether s is 32 hex digits: the id of a volume or of a submission.
func ID(s string) bool { return idRE.MatchString(s) }
