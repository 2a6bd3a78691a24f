package slurm

import (
	"context"
	"fmt"
	"strings"
)

// Unmet returns why a job's Dependency can never be met; "" if nothing is known against it.
func (s *Script) Unmet(ctx context.Context, c Commands) (string, error) {
	if s.Dependency == "" {
		return "", nil
	}
	// Clauses between commas must all be met, of those between question marks any.
	any := strings.Contains(s.Dependency, "?")
	clauses := strings.FieldsFunc(s.Dependency, func(r rune) bool { return r == ',' || r == '?' })
	ids := dependedOn(clauses)
	if len(ids) == 0 {
		return "", nil
	}
	known, err := c.Status(ctx, ids)
	if err != nil {
		return "", err
	}
	first := ""
	for _, clause := range clauses {
		switch why := unmetClause(clause, known); {
		case why == "" && any:
			return "", nil
		case why != "" && !any:
			return why, nil
		case first == "":
			first = why
		}
	}
	return first, nil
}

// dependedOn returns the ids in clauses; tasks of arrays are left out.
func dependedOn(clauses []string) (ids []JobID) {
	seen := map[string]bool{}
	for _, clause := range clauses {
		for _, word := range strings.Split(clause, ":")[1:] {
			word, _, _ = strings.Cut(word, "+") // after:12+5, in minutes
			if jobIDShape.MatchString(word) && !seen[word] {
				ids = append(ids, JobID(word))
			}
			seen[word] = true
		}
	}
	return ids
}

// unmetClause judges "afterok:12:13". Of jobs that it does not know (any more), slurmctld takes those kinds to be met
// that do not ask how a job ended, and refuses the others.
func unmetClause(clause string, known map[JobID]Status) string {
	words := strings.Split(clause, ":")
	kind := words[0]
	for _, id := range words[1:] {
		s, ok := known[JobID(id)]
		switch {
		case !ok, kind != "afterok" && kind != "afternotok":
		case s.State == Unknown:
			return fmt.Sprintf("--dependency %s: Slurm does not know job %s, or has forgotten how it ended", clause, id)
		case kind == "afterok" && s.State.Ended() && s.State != Completed:
			return fmt.Sprintf("--dependency %s: job %s has ended as %s", clause, id, s.State)
		case kind == "afternotok" && s.State == Completed:
			return fmt.Sprintf("--dependency %s: job %s has ended well", clause, id)
		}
	}
	return ""
}
