package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// contender is one way to do a thing.
type contender struct {
	name string
	goal float64 // as a peer: how many times as fast sealbatch should be; 0 is no goal
	// run prepares, does the thing, and tells how long the doing took.
	run func(context.Context) (time.Duration, error)
}

// contest is one row of the table: sealbatch first, then its peers.
type contest struct {
	what string
	ours contender
	rest []contender
	// short things, of milliseconds, are done five times as often.
	short bool
}

func (c contest) rounds(runs int) int {
	if c.short {
		return 5 * runs
	}
	return runs
}

// hold runs all contenders in turns, another one first in each round, so that
// what else the machine does meets all alike; element i of the answer holds the
// times of contender i, sealbatch being 0.
func (c contest) hold(ctx context.Context, rounds int) ([][]time.Duration, error) {
	all := append([]contender{c.ours}, c.rest...)
	times := make([][]time.Duration, len(all))
	for round := range rounds {
		for i := range all {
			n := (round + i) % len(all)
			took, err := all[n].run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", c.what, all[n].name, err)
			}
			times[n] = append(times[n], took)
		}
	}
	return times, nil
}

// contests holds those that were asked for, and prints a table.
func (b *bench) contests(ctx context.Context, title string, cs ...contest) error {
	head := fmt.Sprintf("\n%s\n\n| what | sealbatch | against | takes | times as fast | goal | |\n|---|---|---|---|---|---|---|\n", title)
	for _, c := range cs {
		if !b.only.MatchString(c.what) {
			continue
		}
		if b.skip != nil {
			c.rest = slices.DeleteFunc(c.rest, func(p contender) bool { return b.skip.MatchString(p.name) })
		}
		if len(c.rest) == 0 {
			continue
		}
		b.say("%s", c.what)
		times, err := c.hold(ctx, c.rounds(b.runs))
		if err != nil {
			return err
		}
		fmt.Fprint(b.out, head, c.rows(times))
		head = ""
	}
	return nil
}

// rows are the table's lines, one for each peer.
func (c contest) rows(times [][]time.Duration) string {
	var s strings.Builder
	for i, p := range c.rest {
		ratios := make([]float64, len(times[0]))
		for r := range ratios {
			ratios[r] = float64(times[i+1][r]) / float64(times[0][r])
		}
		goal, met := "", ""
		if p.goal > 0 {
			goal, met = fmt.Sprintf("%g", p.goal), "missed"
			if spreadOf(ratios).median >= p.goal {
				met = "met"
			}
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s |\n", c.what, secondsOf(times[0]).text("s"), p.name,
			secondsOf(times[i+1]).text("s"), spreadOf(ratios).text(""), goal, met)
	}
	return s.String()
}

// figure is a row about sealbatch alone: it should be below a limit.
type figure struct {
	what, unit string
	values     []float64
	limit      float64 // 0 is none
}

// figures prints a table of those that were asked for and measured.
func (b *bench) figures(title string, fs ...figure) {
	head := fmt.Sprintf("\n%s\n\n| what | measured | goal | |\n|---|---|---|---|\n", title)
	for _, f := range fs {
		if len(f.values) == 0 || !b.only.MatchString(f.what) {
			continue
		}
		goal, met := "", ""
		if f.limit > 0 {
			goal, met = fmt.Sprintf("< %g", f.limit), "missed"
			if spreadOf(f.values).median < f.limit {
				met = "met"
			}
		}
		fmt.Fprintf(b.out, "%s| %s | %s | %s | %s |\n", head, f.what, spreadOf(f.values).text(f.unit), goal, met)
		head = ""
	}
}

// spread is what is printed of several measurements.
type spread struct{ least, median, most float64 }

// spreadOf sorts a copy. Of an even number, the median is the lower middle one.
func spreadOf(values []float64) spread {
	s := slices.Sorted(slices.Values(values))
	return spread{s[0], s[(len(s)-1)/2], s[len(s)-1]}
}

func secondsOf(times []time.Duration) spread {
	values := make([]float64, len(times))
	for i, t := range times {
		values[i] = t.Seconds()
	}
	return spreadOf(values)
}

// text returns the median, then least and most.
func (s spread) text(unit string) string {
	if unit != "" {
		unit = " " + unit
	}
	return fmt.Sprintf("%s%s (%s-%s)", short(s.median), unit, short(s.least), short(s.most))
}

// short prints about three digits that count.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
