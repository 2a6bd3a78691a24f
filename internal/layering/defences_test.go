package layering

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// defence is what a control run of the end-to-end tests takes out of the
// product: text that stands once in a source file.
type defence struct{ pos, file, text string }

// defencesOf finds the defences that the tests in dir name: pairs of neighbouring
// constants, a source file's name and a text, in calls, composite literals and
// the struct literals of tables.
func defencesOf(t *testing.T, dir string) (found []defence) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	// Imports stay unresolved: constants of strings need none.
	conf := types.Config{Error: func(error) {}, Importer: nil}
	_, _ = conf.Check("e2e", fset, files, info)
	text := func(e ast.Expr) (string, bool) {
		v := info.Types[e].Value
		if v == nil || v.Kind() != constant.String {
			return "", false
		}
		return constant.StringVal(v), true
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			var list []ast.Expr
			switch n := n.(type) {
			case *ast.CompositeLit:
				list = n.Elts
			case *ast.CallExpr:
				list = n.Args
			}
			for i := 1; i < len(list); i++ {
				file, ok1 := text(list[i-1])
				old, ok2 := text(list[i])
				if ok1 && ok2 && strings.HasSuffix(file, ".go") && strings.Contains(file, "/") && !strings.Contains(file, " ") {
					found = append(found, defence{fset.Position(list[i].Pos()).String(), file, old})
				}
			}
			return true
		})
	}
	return found
}

// TestDefencesStand finds in seconds what the end-to-end tests would find in
// minutes: a defence that control runs take out does not stand where it stood.
func TestDefencesStand(t *testing.T) {
	t.Parallel()
	found := defencesOf(t, "../../e2e")
	if len(found) < 80 {
		t.Errorf("only %d defences found; are they still written as this test reads them?", len(found))
	}
	for _, d := range found {
		src, err := os.ReadFile(filepath.Join("../..", d.file))
		if err != nil {
			t.Errorf("%s: %v", d.pos, err)
		} else if n := strings.Count(string(src), d.text); n != 1 {
			t.Errorf("%s: %s holds %d times, not once:\n%s", d.pos, d.file, n, d.text)
		}
	}
}
