package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxChange bounds what PolicyChanges says of one field, in bytes.
const maxChange = 300

// PolicyChanges says for people, a line a field, how one policy differs from the one
// before it; both are Encode's, before may be nil. Lines are cut where lists are long.
func PolicyChanges(before, after []byte) ([]string, error) {
	was, err := policyFields(before)
	if err != nil {
		return nil, err
	}
	is, err := policyFields(after)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(was)
	maps.Copy(all, is)
	var out []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if string(was[name]) == string(is[name]) {
			continue
		}
		line := name + ": " + changed(was[name], is[name])
		if len(line) > maxChange {
			line = line[:maxChange] + " (cut)"
		}
		out = append(out, line)
	}
	return out, nil
}

func policyFields(b []byte) (fields map[string]json.RawMessage, err error) {
	if b == nil {
		return map[string]json.RawMessage{}, nil
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return fields, nil
}

// changed says what became of a field: of lists what came and went.
func changed(was, is json.RawMessage) string {
	old, now := []string{}, []string{}
	if (was != nil && json.Unmarshal(was, &old) != nil) || (is != nil && json.Unmarshal(is, &now) != nil) {
		if was == nil {
			return plain(is)
		}
		return plain(was) + " -> " + plain(is)
	}
	had, has := map[string]bool{}, map[string]bool{}
	for _, s := range old {
		had[s] = true
	}
	for _, s := range now {
		has[s] = true
	}
	var words []string
	for _, s := range now {
		if !had[s] {
			words = append(words, "+"+s)
		}
	}
	for _, s := range old {
		if !has[s] {
			words = append(words, "-"+s)
		}
	}
	if words == nil {
		return "in another order"
	}
	return strings.Join(words, " ")
}

func plain(b json.RawMessage) string {
	if b == nil {
		return "not set"
	}
	s := strings.Trim(string(b), `"`)
	if s == Never.Format(time.RFC3339) {
		return "never"
	}
	return s
}
