package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// volumeLog is the history of one version of a volume.
type volumeLog struct {
	VolumeID string            `json:"volume_id"`
	Name     string            `json:"name"`
	File     string            `json:"file"`
	State    string            `json:"state"`
	Released int               `json:"released"` // how often in all
	Entries  []keyapi.LogEntry `json:"entries"`  // by time
}

// showLog prints what became of a volume, or of all versions of a name.
func (c *client) showLog(ctx context.Context, ref string, asJSON bool) error {
	versions, err := c.versions(ctx, ref)
	if err != nil {
		return err
	}
	var logs []volumeLog
	for _, s := range versions {
		l := volumeLog{VolumeID: s.VolumeID, Name: s.Name, File: s.File, State: state(s), Released: s.Released}
		if l.Entries, err = c.keys.SecretLog(ctx, s.VolumeID); err != nil {
			return err
		}
		slices.SortStableFunc(l.Entries, func(a, b keyapi.LogEntry) int { return a.Time.Compare(b.Time) })
		logs = append(logs, l)
	}
	slices.SortStableFunc(logs, func(a, b volumeLog) int { return a.since().Compare(b.since()) })
	if asJSON {
		e := json.NewEncoder(c.a.stdout)
		e.SetIndent("", "  ")
		return e.Encode(logs)
	}
	for i, l := range logs {
		if i > 0 {
			fmt.Fprintln(c.a.stdout)
		}
		if err := l.print(c.a.stdout); err != nil {
			return err
		}
	}
	return nil
}

// versions returns the volume with an id, or its first digits, or all versions of a name.
func (c *client) versions(ctx context.Context, ref string) (found []keyapi.SecretEntry, err error) {
	if id := strings.ToLower(ref); names.ID(id) {
		s, err := c.keys.GetSecret(ctx, id)
		if !errors.Is(err, keyclient.ErrNotFound) {
			return []keyapi.SecretEntry{s.Entry()}, err
		}
	}
	found, byID, err := c.secretsNamed(ctx, ref)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, noVolume(ref)
	case byID && len(found) > 1:
		return nil, severalVolumes(ref, found)
	}
	return found, nil
}

func noVolume(ref string) error {
	hint := "sealbatch policy list shows them"
	if len(ref) < minIDPrefix && strings.Trim(strings.ToLower(ref), "0123456789abcdef") == "" {
		hint = fmt.Sprintf("of an id at least %d digits are needed; %s", minIDPrefix, hint)
	}
	return fault.New(fault.Usage, fmt.Errorf("you have no volume %.80q at the key service", ref), hint)
}

// since returns when the first entry was made.
func (l volumeLog) since() time.Time {
	if len(l.Entries) == 0 {
		return time.Time{}
	}
	return l.Entries[0].Time
}

// print writes a table. What others chose is made harmless for the terminal.
func (l volumeLog) print(out io.Writer) error {
	fmt.Fprintf(out, "%s %s, %s\n", l.VolumeID, called(keyapi.SecretEntry{Name: l.Name, File: l.File}), l.State)
	table := ui.NewTable(ui.Column{Head: "TIME", Short: len("2006-01-02 15:04")}, ui.Column{Head: "EVENT"},
		ui.Column{Head: "ACCOUNT", Wrap: true},
		ui.Column{Head: "USER", Wrap: true}, ui.Column{Head: "JOB", Wrap: true}, ui.Column{Head: "NODE", Wrap: true},
		ui.Column{Head: "EVIDENCE", Drop: 1}, ui.Column{Head: "DETAILS", Wrap: true})
	shown := 0
	for _, e := range l.Entries {
		if e.Event == keyapi.LogReleased {
			shown++
		}
		for i, detail := range details(e) {
			row := []string{"", "", "", "", "", "", "", detail}
			if i == 0 {
				row = []string{e.Time.Local().Format(time.DateTime), e.Event, e.Account, e.User, jobOf(e), e.Node, evidenceOf(e), detail}
			}
			table.Row(row...)
		}
	}
	if err := table.Print(out); err != nil {
		return err
	}
	if more := l.Released - shown; more > 0 {
		fmt.Fprintf(out, "%d earlier releases are in the key service's audit log only\n", more)
	}
	return nil
}

func jobOf(e keyapi.LogEntry) string {
	if e.Job == nil {
		return ""
	}
	s := fmt.Sprintf("%s/%d", e.Job.Cluster, e.Job.ID)
	if e.Job.ArrayTask >= 0 {
		s += fmt.Sprintf("_%d", e.Job.ArrayTask)
	}
	if e.Job.Restart > 0 {
		s += fmt.Sprintf(", restart %d", e.Job.Restart)
	}
	return s
}

func evidenceOf(e keyapi.LogEntry) string {
	return strings.TrimSpace(e.Attestor + " " + e.Tier)
}

// details returns the lines of an entry's last column, one at least.
func details(e keyapi.LogEntry) []string {
	var lines []string
	if e.Reason != "" {
		lines = append(lines, e.Reason)
	}
	if e.Last != nil {
		lines = append(lines, fmt.Sprintf("%d times or more, until %s", e.Times, e.Last.Local().Format(time.DateTime)))
	}
	lines = append(lines, e.Changes...)
	if e.Policy != "" {
		lines = append(lines, "policy "+e.Policy)
	}
	if e.Key != "" {
		lines = append(lines, "signed by "+e.Key)
	}
	return append(lines, "")[:max(len(lines), 1)]
}
