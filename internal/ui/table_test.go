package ui

import (
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/text"
)

// narrow is a terminal of so many columns.
type narrow struct {
	strings.Builder
	columns int
}

func (n *narrow) Columns() int { return n.columns }

func volumesTable() *Table {
	t := NewTable(Column{Head: "VOLUME", Short: 12}, Column{Head: "NAME", Wrap: true}, Column{Head: "KIND", Drop: 1},
		Column{Head: "RELEASED", Drop: 2}, Column{Head: "STATE", Wrap: true})
	t.Row("0123456789abcdef0123456789abcdef", "encrypted_jp2a_input.tgz", "dataset", "0", "open")
	t.Row("fedcba9876543210fedcba9876543210", "日本\x1b[2J", "image", "17", "closed: renew its policy")
	return t
}

func TestTable(t *testing.T) {
	t.Parallel()
	for columns, want := range map[int]string{
		0: `VOLUME                            NAME                      KIND     RELEASED  STATE
0123456789abcdef0123456789abcdef  encrypted_jp2a_input.tgz  dataset  0         open
fedcba9876543210fedcba9876543210  日本\u001b[2J             image    17        closed: renew its policy
`,
		79: `VOLUME        NAME                      KIND     STATE
0123456789ab  encrypted_jp2a_input.tgz  dataset  open
fedcba987654  日本\u001b[2J             image    closed: renew its policy
`,
		40: `VOLUME        NAME          STATE
0123456789ab  encrypted_jp  open
              2a_input.tgz
fedcba987654  日本\u001b[2  closed:
              J             renew its
                            policy
`,
	} {
		w := &narrow{columns: columns}
		if err := volumesTable().Print(w); err != nil || w.String() != want {
			t.Errorf("%d columns: %v\n%s\nwant\n%s", columns, err, w, want)
		}
	}
}

// TestTableFits: whatever the width, nothing of a cell that wraps is lost, and down to the least no line is longer.
func TestTableFits(t *testing.T) {
	t.Parallel()
	for columns := 1; columns < 130; columns++ {
		w := &narrow{columns: columns}
		if err := volumesTable().Print(w); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(w.String()) {
			if line = strings.TrimSuffix(line, "\n"); text.Width(line) > max(columns, 12+2+10+2+10) || strings.HasSuffix(line, " ") {
				t.Errorf("%d columns: a line of %d: %q", columns, text.Width(line), line)
			}
		}
		for _, want := range []string{"closed:", "its", "policy", "open"} {
			if !strings.Contains(w.String(), want) {
				t.Errorf("%d columns: %q is missing in\n%s", columns, want, w)
			}
		}
	}
}
