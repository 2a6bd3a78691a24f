package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/jobprep"
)

// waiting names the jobs that wait for a volume's key: those that were submitted from here,
// of which Slurm is asked, and all others that the key service knows.
func (c *client) waiting(ctx context.Context, volumeID string) (publish.Waiting, error) {
	store, err := submission.Open("")
	if err != nil {
		return publish.Waiting{}, err
	}
	d := jobprep.Deps{FS: c.fs, Slurm: c.slurm(), Store: store, Address: c.conf.Supercomputer.Address}
	here, err := jobprep.Waiting(ctx, d, volumeID)
	others, kerr := c.keys.SecretJobs(ctx, volumeID)
	records, _ := store.List() // jobprep.Waiting has told what is wrong with it
	others.Jobs = slices.DeleteFunc(others.Jobs, func(j keyapi.SecretJob) bool {
		return slices.ContainsFunc(records, func(r submission.Record) bool { return r.Manifest.String() == j.Manifest })
	})
	w := publish.Waiting{Here: here}
	if n := countJobs(others); n != "" {
		w.Else = n + " not submitted from here, registered at the key service and without its key so far: " + jobsInWords(others)
	}
	return w, errors.Join(err, kerr)
}

// countJobs says how many jobs those are; "" for none.
func countJobs(all keyapi.SecretJobs) string {
	switch n := len(all.Jobs) + all.More; {
	case all.Uncounted:
		return fmt.Sprintf("%d jobs or more", max(n, 1))
	case n == 1:
		return "1 job"
	case n > 1:
		return fmt.Sprintf("%d jobs", n)
	}
	return ""
}

// jobsInWords says whose jobs those are, and until when the last of each may ask for keys.
func jobsInWords(all keyapi.SecretJobs) string {
	type group struct {
		whose string
		n     int
		last  time.Time
	}
	var groups []*group
	for _, j := range all.Jobs {
		whose := whoseJob(j)
		i := slices.IndexFunc(groups, func(g *group) bool { return g.whose == whose })
		if i < 0 {
			i, groups = len(groups), append(groups, &group{whose: whose})
		}
		groups[i].n++
		if j.Expires.After(groups[i].last) {
			groups[i].last = j.Expires
		}
	}
	var words []string
	for _, g := range groups {
		words = append(words, fmt.Sprintf("%d of %s (until %s)", g.n, g.whose, g.last.Local().Format(time.DateOnly)))
	}
	if all.More > 0 {
		words = append(words, fmt.Sprintf("%d more", all.More))
	}
	if all.Uncounted {
		words = append(words, "and those beyond what the key service looks at")
	}
	return strings.Join(words, ", ")
}

// whoseJob returns the account that registered a job, with the user whose job it is where that is another.
func whoseJob(j keyapi.SecretJob) string {
	whose := j.Account
	if j.Manifest != "" {
		whose = "your own account " + whose
	}
	if j.User != j.Account {
		whose += " for user " + j.User
	}
	if j.Cluster != "" {
		whose += " on " + j.Cluster
	}
	return text.Printable(whose)
}

// whatWaits tells, in a line, of the jobs that have not got a volume's key yet; "" if there are none.
func (c *client) whatWaits(ctx context.Context, volumeID string) (string, error) {
	all, err := c.keys.SecretJobs(ctx, volumeID)
	n := countJobs(all)
	if err != nil || n == "" {
		return "", err
	}
	return fmt.Sprintf("Registered, and without its key so far: %s; %s.\n", n, jobsInWords(all)), nil
}

// noteShutOut names the jobs that could have got a volume's key before its policy was
// changed, and cannot any more.
func (c *client) noteShutOut(ctx context.Context, volumeID string, before keyapi.SecretJobs) error {
	if len(before.Jobs) == 0 {
		return nil
	}
	after, err := c.keys.SecretJobs(ctx, volumeID)
	if err != nil {
		return err
	}
	same := func(a keyapi.SecretJob) func(keyapi.SecretJob) bool {
		return func(b keyapi.SecretJob) bool {
			return a.Account == b.Account && a.User == b.User && a.Cluster == b.Cluster && a.Registered.Equal(b.Registered)
		}
	}
	lost := keyapi.SecretJobs{Jobs: slices.DeleteFunc(before.Jobs, func(j keyapi.SecretJob) bool {
		return slices.ContainsFunc(after.Jobs, same(j))
	})}
	if n := countJobs(lost); n != "" && after.More <= before.More {
		fmt.Fprintf(c.a.stderr, "note: this policy does not open it any more to %s registered and without its key so far: %s\n",
			n, jobsInWords(lost))
	}
	return nil
}
