package main

import (
	"path"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// migrating is what tells HPCS's users where sealbatch differs.
const migrating = "docs/migrating-from-hpcs.md"

// hpcsPrograms are the words by which HPCS's programs go that sealbatch has no command of the same name for, and what
// does their work (github.com/CSCfi/HPCS: client, utils and server).
var hpcsPrograms = map[string]string{
	"prepare_container": "sealbatch container-prep does it, and deposits the key with the policy; to seal alone: sealbatch seal",
	"prepare_data":      "sealbatch data-prep does it, and deposits the key with the policy; to seal alone: sealbatch seal",
	"prepare_job":       "sealbatch job-prep does it",
	"ship_a_key":        "sealbatch data-prep and container-prep deposit the key by themselves; sealbatch policy changes who may have it",
	"spawn_agent":       "sealbatch needs no agent: an SSH key of an account signs requests to the key service; see " + migrating,
	"fetch_svid":        "sealbatch needs no agent: an SSH key of an account signs requests to the key service; see " + migrating,
}

// hpcsProgram returns what does the work of HPCS's program word, which may be a path and end in .py; "" if it is none.
func hpcsProgram(word string) string {
	return hpcsPrograms[strings.TrimSuffix(path.Base(word), ".py")]
}

// hpcsServerSections are those of HPCS's server.conf.
var hpcsServerSections = []string{"spire-server", "spire-agent", "vault"}

// ofHPCS returns err, an error of server.conf, with the hint that the file is HPCS's, if it is.
func ofHPCS(err error) error {
	if err != nil && slices.ContainsFunc(hpcsServerSections, func(s string) bool {
		return strings.Contains(err.Error(), "unknown section ["+s+"]")
	}) {
		return fault.New(fault.Config, err, "this looks like HPCS's server.conf, of which sealbatch uses nothing: "+
			"sealbatch serve --init makes a configuration; see "+migrating)
	}
	return err
}
