package ui

import (
	"io"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/internal/text"
)

// Column is one of a Table's, and what becomes of it where a terminal is too narrow. The columns are shortened first, then
// dropped, one after the other, and then those that wrap share what is left.
type Column struct {
	Head  string // "" in all columns for a table without headings
	Short int    // characters that say enough of it, such as of an id; 0 for all
	Drop  int    // the highest is dropped first; 0 for never
	Wrap  bool   // its cells may go on below
}

// Table collects rows and prints them in columns. On a terminal no line is longer than that is wide, if that can be had;
// elsewhere, where a program may read them, all of it is printed, and no cell is broken.
type Table struct {
	columns []Column
	rows    [][]string
}

// NewTable returns a table without rows. Columns that are not described, of rows that have more, are printed whole.
func NewTable(columns ...Column) *Table { return &Table{columns: columns} }

// Row adds a row, whose cells are one line each, without what could steer a terminal.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = text.Printable(strings.ReplaceAll(c, "\n", " "))
	}
	for len(t.columns) < len(row) {
		t.columns = append(t.columns, Column{Wrap: true})
	}
	t.rows = append(t.rows, row)
}

// Widths that are kept for columns which wrap, in characters: what is dropped before they get less, and the least.
const (
	fairWidth  = 32
	leastWidth = 10
	gap        = 2 // between columns
)

// Print writes the table.
func (t *Table) Print(w io.Writer) error {
	rows := t.rows
	if slices.ContainsFunc(t.columns, func(c Column) bool { return c.Head != "" }) {
		head := make([]string, len(t.columns))
		for i, c := range t.columns {
			head[i] = c.Head
		}
		rows = slices.Insert(slices.Clone(rows), 0, head)
	}
	keep := make([]int, len(t.columns))
	for i := range keep {
		keep[i] = i
	}
	var widths []int
	if out, ok := w.(interface{ Columns() int }); ok && out.Columns() > 0 {
		rows, keep = t.fit(rows, keep, out.Columns())
		widths = t.share(measure(rows, keep), keep, out.Columns())
	} else {
		widths = measure(rows, keep)
	}
	var b strings.Builder
	for _, row := range rows {
		writeRow(&b, row, keep, widths)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fit shortens and drops columns until those that are kept have room.
func (t *Table) fit(rows [][]string, keep []int, columns int) ([][]string, []int) {
	fits := func() bool { return total(measure(rows, keep)) <= columns }
	if fits() {
		return rows, keep
	}
	short := make([][]string, len(rows))
	for r, row := range rows {
		short[r] = slices.Clone(row)
		for i, cell := range row {
			if n := t.columns[i].Short; n > 0 && text.Width(cell) > n {
				short[r][i] = string([]rune(cell)[:n])
			}
		}
	}
	rows = short
	for {
		least := measure(rows, keep)
		for at, i := range keep {
			if t.columns[i].Wrap {
				least[at] = min(least[at], fairWidth)
			}
		}
		at := t.first(keep)
		if total(least) <= columns || at < 0 {
			return rows, keep
		}
		keep = slices.Delete(slices.Clone(keep), at, at+1)
	}
}

// first returns which of the kept columns is to be dropped next, -1 if none may be.
func (t *Table) first(keep []int) int {
	at, most := -1, 0
	for k, i := range keep {
		if d := t.columns[i].Drop; d > most {
			at, most = k, d
		}
	}
	return at
}

// share takes from the columns that wrap, of the widest first, what is too much.
func (t *Table) share(widths, keep []int, columns int) []int {
	for total(widths) > columns {
		widest := -1
		for at, i := range keep {
			if t.columns[i].Wrap && widths[at] > leastWidth && (widest < 0 || widths[at] > widths[widest]) {
				widest = at
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

// measure returns how wide the kept columns are.
func measure(rows [][]string, keep []int) []int {
	widths := make([]int, len(keep))
	for _, row := range rows {
		for at, i := range keep {
			if i < len(row) {
				widths[at] = max(widths[at], text.Width(row[i]))
			}
		}
	}
	return widths
}

func total(widths []int) int {
	sum := gap * max(len(widths)-1, 0)
	for _, w := range widths {
		sum += w
	}
	return sum
}

// writeRow writes one row, on as many lines as its longest cell takes.
func writeRow(b *strings.Builder, row []string, keep, widths []int) {
	parts, lines := make([][]string, len(keep)), 1
	for at, i := range keep {
		if i < len(row) {
			parts[at] = broken(row[i], widths[at])
			lines = max(lines, len(parts[at]))
		}
	}
	for n := range lines {
		var line strings.Builder
		for at := range keep {
			cell := ""
			if n < len(parts[at]) {
				cell = parts[at][n]
			}
			line.WriteString(cell + strings.Repeat(" ", max(widths[at]-text.Width(cell), 0)+gap))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// broken returns a cell in pieces of a width: between words, or, where a word is wider, within.
func broken(cell string, width int) (lines []string) {
	line := ""
	for _, word := range strings.SplitAfter(cell, " ") {
		if line != "" && text.Width(line)+text.Width(strings.TrimRight(word, " ")) > width {
			lines, line = append(lines, strings.TrimRight(line, " ")), ""
		}
		for _, r := range word {
			if text.Width(line)+text.Width(string(r)) > width && r != ' ' && line != "" {
				lines, line = append(lines, line), ""
			}
			line += string(r)
		}
	}
	return append(lines, strings.TrimRight(line, " "))
}
